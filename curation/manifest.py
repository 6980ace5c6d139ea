"""The manifest: the kept rows of a data set, and its identity. Imports no torch."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curation.workspace import Workspace, write_table
from datamodules.files import sha256_file, write_json

SCORES = ("ood", "ood_general", "text_gap")
COLUMNS = (
    "key", "source", "root", "shard", "offset", "size", "ext", "caption", "url", "licence", "opt_out",
    "made_for", "model", "revision", "seed", "width", "height", "sha256", "concepts", "similarities",
    "leak_similarity", "concept", *SCORES, "front", "removal_rank",
)  # fmt: skip


def write_manifest(
    ledger: pa.Table,
    keep: np.ndarray,
    folder: Path,
    roots: dict[str, Path],
    selection: dict[str, Any] | None = None,
) -> str:
    """Writes manifest.parquet and roots.json; returns the manifest's SHA-256, the identity of the data set.

    selection: how the images were chosen, for selection.json. The manifest comes last: with it the data set is there.
    """
    names = [name for name in COLUMNS if name in ledger.column_names]
    table = ledger.select(names).filter(pa.array(keep)).combine_chunks().replace_schema_metadata(None)
    write_json(folder / "roots.json", {name: str(path) for name, path in roots.items()})
    if selection is not None:
        write_json(folder / "selection.json", selection)
    write_table(folder / "manifest.parquet", table)
    return sha256_file(folder / "manifest.parquet")


def verify_manifest(workspace: Workspace) -> None:
    """Raises where dataset/full is missing, is not the one that the select stage wrote, or is being made anew."""
    record = workspace.stage_record("select")
    path = workspace.manifest()
    if record is not None and workspace.current_record("select") is None:
        raise ValueError(
            f"{workspace.root} is between two runs: an earlier stage ran again after {path} was selected, and what "
            "follows it has not; run `curate` with this config to its end"
        )
    if record is None or not path.exists():
        raise FileNotFoundError(f"{path} is missing; run `curate` with this config first")
    if sha256_file(path) != record["result"]["manifest_sha256"]:
        raise ValueError(
            f"{path} is not the manifest that this workspace's select stage wrote (its checksum differs): it was "
            f"edited or written by another configuration. Move it away, delete {workspace.stage_folder('select')} "
            "and run again to write it anew"
        )
