"""Other sizes of a finished data set. Imports no torch."""

import re
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from curation.ledger import read_ledger
from curation.manifest import write_manifest
from curation.stages.select import size_within
from curation.workspace import Workspace


def write_size(workspace: Workspace, size: int, name: str) -> Path:
    """Writes dataset/<name> with the last `size` images of the removal order; returns its manifest.

    Sizes are nested: a smaller set is a subset of a larger one, and `full` is one of them. An existing data set is
    never overwritten. Raises ValueError for a size beyond what is left, or a name that is taken or no folder name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"--name {name!r} is no folder name; use letters, digits, '.', '_' and '-'")
    if size < 1:
        raise ValueError(f"--size must be at least 1, got {size}")
    ledger = read_ledger(workspace)
    if "removal_rank" not in ledger.column_names:
        raise FileNotFoundError(
            f"{workspace.stage_folder('select')} has no stage.json: nothing is selected yet; run `curate` first"
        )
    rank = pc.fill_null(ledger["removal_rank"], -1).to_numpy()
    ranked = int((rank >= 0).sum())
    keep = rank >= ranked - size_within(size, ranked, "--size")
    folder = workspace.dataset_folder(name)
    if workspace.manifest(name).exists():
        raise ValueError(f"--name {name}: {folder} exists and is never overwritten; choose another name")
    write_manifest(ledger, np.asarray(keep), folder, workspace.roots)
    return folder / "manifest.parquet"
