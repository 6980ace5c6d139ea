"""Whether this machine can do what a configuration asks: devices, disk, keys, endpoints, weights, stored images."""

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from curation.known_weights import CLIPN, find_file, known, named_models
from curation.packaged import PREFIX
from curation.repositories import cached_folder
from curation.sharing import checked_base, from_base
from curation.stage import Context
from curation.workspace import Workspace
from datamodules.store import ImageStore

Level = Literal["ok", "info", "note", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line: whether it is well, what was looked at, and what is to know or to do.

    level: ok, info (a fact), note (to think about) or fail (to mend).
    """

    level: Level
    subject: str
    text: str


def examine(context: Context, needed_gb: float | None = None) -> Iterator[Finding]:
    """All findings, in the order of a run; none of them changes or downloads anything.

    needed_gb: disk space that the run will take, where a plan told it.
    """
    yield from examine_machine()
    yield examine_disk(context.workspace.root, needed_gb)
    if context.base is not None:
        try:
            yield Finding("ok", "base", f"{checked_base(context)} is there")
        except (ValueError, OSError) as error:
            yield Finding("fail", "base", str(error))
    shared = from_base(context)
    for stage in context.stages.values():
        if stage.name in shared:
            yield Finding("ok", stage.name, f"taken from the base, {context.base}")
            continue
        try:
            stage.check(context)
        except (ValueError, OSError) as error:
            yield Finding("fail", stage.name, " ".join(str(error).split()))
        else:
            yield Finding("ok", stage.name, "settings, files and models are here")
    yield from examine_weights(context)
    yield from examine_store(context.workspace)


def examine_machine() -> Iterator[Finding]:
    """Python, the libraries and the GPUs."""
    import torch

    names = ("torch", "lightning", "transformers", "diffusers", "open-clip-torch")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names if _installed(name))
    yield Finding("ok", "python", f"{platform.python_version()}, {versions}")
    if not torch.cuda.is_available():
        yield Finding("note", "gpu", "none: every stage runs on the CPU, the large models too slowly to be of use")
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        free = torch.cuda.mem_get_info(number)[0] / 1e9
        yield Finding("ok", f"gpu {number}", f"{facts.name}, {free:.0f} of {facts.total_memory / 1e9:.0f} GB free")


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def examine_disk(folder: Path, needed_gb: float | None) -> Finding:
    """Free space where the workspace is, or will be made."""
    there = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(there).free / 1e9
    if not os.access(there, os.W_OK):
        return Finding("fail", "disk", f"{there} cannot be written; choose another folder with --workspace")
    if needed_gb is not None and needed_gb > free:
        return Finding(
            "fail", "disk",
            f"{free:.0f} GB free at {there}, the plan takes about {needed_gb:.0f}; choose another folder with "
            "--workspace, or fewer images",
        )  # fmt: skip
    needs = "" if needed_gb is None else f", the plan takes about {max(needed_gb, 0.1):.1f}"
    return Finding("ok", "disk", f"{free:.0f} GB free at {there}{needs}")


def examine_weights(context: Context) -> Iterator[Finding]:
    """Source, licence and size of every published model that the configuration names."""
    for stage in context.stages.values():
        for key, name in named_models(stage, f"curation.{stage.name}"):
            entry = known(name) or (known(CLIPN) if key.endswith((".no_branch", ".clipn.pretrained")) else None)
            if entry is None:
                if not name.startswith(PREFIX):
                    yield Finding("note", "weights", f"{key}: {name} is no known model; look up its licence yourself")
                continue
            size = "" if entry.gigabytes is None else f", {entry.gigabytes:g} GB"
            checksum = f", sha256 {entry.sha256[:12]}..." if entry.sha256 else ""
            note = f"; {entry.note}" if entry.note else ""
            file = find_file(name)
            here = f", here: {file}" if file else _in_cache(entry.name)
            text = f"{key}: {entry.name}, {entry.licence}{size}, from {entry.source}{checksum}{here}{note}"
            yield Finding("info", "weights", text)


def _in_cache(name: str) -> str:
    """Which commit of a repository is in the cache, in words that go on after its source."""
    found = next(
        (path for file in ("config.json", "model_index.json") if (path := cached_folder(name, None, file))), None
    )
    return f", in the cache at commit {found.name[:12]}" if found else ""


def examine_store(workspace: Workspace) -> Iterator[Finding]:
    """Whether the files that hold the indexed images are as long as the index says."""
    if workspace.stage_record("index") is None:
        yield Finding("note", "images", "not indexed yet")
        return
    damaged = list(damaged_shards(workspace))
    rows = workspace.index.num_rows
    if not damaged:
        yield Finding("ok", "images", f"every file of the {rows} indexed rows is there and whole")
    for name, problem in damaged[:5]:
        yield Finding("fail", "images", f"{name} {problem}; put it back, or run `curate` again to index what is there")
    if len(damaged) > 5:
        yield Finding("fail", "images", f"and {len(damaged) - 5} files more")


def damaged_shards(workspace: Workspace) -> Iterator[tuple[Path, str]]:
    """Files of the index that are gone, or shorter than the last image they should hold."""
    index = workspace.index.select(["root", "shard", "offset", "size"]).filter(pc.is_valid(workspace.index["size"]))
    ends = pc.add(index["offset"], index["size"])
    table = pa.table({"root": index["root"], "shard": index["shard"], "end": ends})
    files = table.group_by(["root", "shard"]).aggregate([("end", "max")])
    store = ImageStore(workspace.roots)
    for batch in files.to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            path = store.path(row["root"], row["shard"])
            try:
                length = path.stat().st_size
            except OSError as error:
                yield path, f"cannot be read ({error.strerror})"
                continue
            if length < row["end_max"]:
                yield path, f"was cut: {length} bytes, the index knows of {row['end_max']}"
