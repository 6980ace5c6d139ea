"""The image index of the pool, and the first look at every image."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.images import ImageReader
from curation.prediction import Loop, Output, Passing, predict_rows
from curation.stage import Context, Stage, runtime
from curation.workspace import read_parts
from datamodules.decoding import ImageLimits, RefusedImage, decode_rgb
from datamodules.indexing import index_pool, join_inputs, walk_files, warnings_of


@dataclass(frozen=True)
class Index(Stage):
    """Where every image lies: shard, offset, size. Images stay where they are: in the pool, fetched, or generated."""

    name: ClassVar[str] = "index"
    reads: ClassVar[tuple[str, ...]] = ("scenes", "fetch", "synthesis")

    def check(self, context: Context) -> None:
        """There must be images: a pool that is there, a search, or a generator."""
        if context.pool is None and not {"fetch", "synthesis"} & set(context.stages):
            raise ValueError(
                "pool is not set; give --pool PATH, a folder of images or of img2dataset / WebDataset shards, or let "
                "curation.search find images, or curation.synthesis make them"
            )
        if context.pool is not None and "scenes" not in context.stages and not context.pool.exists():
            raise FileNotFoundError(f"pool: {context.pool} does not exist; give a folder of images or of shards")

    def identity(self, context: Context) -> dict[str, Any]:
        """Names, sizes and times of the pool's files; a changed pool is indexed again."""
        pool = context.pool
        if pool is None or "scenes" in context.stages:  # the maker's fingerprint stands for the pool
            return {}
        return {"pool": str(pool.resolve()), "files": listing(pool, context.workspace.root)}

    def run(self, context: Context) -> dict[str, Any]:
        """Scans folders and tar headers on rank 0."""
        return context.session.on_zero(lambda: self._run(context))

    def _run(self, context: Context) -> dict[str, Any]:
        workspace = context.workspace
        folders = {"pool": context.pool} if context.pool is not None else {}
        tables = {name: index_pool(path, name, skip=workspace.root) for name, path in folders.items()}
        for name, stage, source in (("fetched", "fetch", "real"), ("synthetic", "synthesis", "synthetic")):
            if stage in context.stages:
                folders[name] = workspace.stage_folder(stage)
                tables[name] = index_pool(folders[name], name, source)
        if "synthesis" in context.stages:
            wanted = pq.read_table(folders["synthetic"] / "wanted.parquet", columns=["key"])["key"]
            made = tables["synthetic"]
            tables["synthetic"] = made.filter(pc.is_in(made["key"], value_set=wanted.combine_chunks()))
        table = join_inputs(tables)
        workspace.write_index(table, {name: path.resolve() for name, path in folders.items()})
        counts = ", ".join(f"{tables[name].num_rows} rows in {path}" for name, path in folders.items())
        return {"rows": table.num_rows, "summary": counts, "warnings": warnings_of(table)}


def listing(pool: Path, skip: Path | None = None) -> str:
    """A checksum over the path, size and time of every file; `skip` names a folder that is left out."""
    digest = hashlib.sha256()
    if pool.is_file():
        stat = pool.stat()
        digest.update(f"{pool.name} {stat.st_size} {stat.st_mtime_ns}".encode())
    else:
        for name in walk_files(pool, skip=skip):  # what the index sees: links followed, hidden names left out
            stat = os.lstat(pool / name) if not (pool / name).exists() else os.stat(pool / name)
            digest.update(f"{name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Ingest(Stage):
    """Decodes every image once; what cannot be used is refused by a stated reason.

    Args:
        limits: What an image must be; `max_pixels` is checked before decoding.
        chunk_rows: Rows per output file.
        batch_size: Images per batch.
        num_workers: Loader processes per rank; the free cores when null.
    """

    name: ClassVar[str] = "ingest"
    reads: ClassVar[tuple[str, ...]] = ("index",)
    limits: ImageLimits = field(default_factory=ImageLimits)
    chunk_rows: int = 4096
    batch_size: int = runtime(64)
    num_workers: int | None = runtime(None)

    def run(self, context: Context) -> dict[str, Any]:
        """Writes readable, reason, width, height, sha256."""
        workspace = context.workspace
        index = workspace.index
        reader = ImageReader(index, workspace.roots, self.limits)
        look_at_rows(
            context, reader, self.name, workspace.stage_folder(self.name), index["key"].combine_chunks(),
            Loop(self.chunk_rows, self.batch_size, self.num_workers),
        )  # fmt: skip
        table = read_parts(workspace.stage_folder(self.name))
        readable = int(np.sum(table["readable"].to_numpy(zero_copy_only=False)))
        reasons = {item["values"]: item["counts"] for item in table["reason"].drop_null().value_counts().to_pylist()}
        if not readable:
            found = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
            raise ValueError(
                f"pool: none of the {table.num_rows} images in {context.pool} can be used ({found}); "
                "give another pool or loosen curation.ingest.limits"
            )
        refused = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
        summary = f"{readable} of {table.num_rows} images readable" + (f" (refused: {refused})" if refused else "")
        return {"rows": table.num_rows, "summary": summary, "reasons": reasons}


def look_at_rows(context: Context, reader: ImageReader, title: str, folder: Path, keys: pa.Array, loop: Loop) -> None:
    """Decodes every image of an index once; writes readable, reason, width, height, sha256."""
    predict_rows(
        context.session, Passing(), title=title, folder=folder, keys=keys, rows=np.arange(len(keys)),
        load=_Look(reader), finish=_columns, loop=loop,
    )  # fmt: skip


@dataclass
class _Look:
    reader: ImageReader

    def __call__(self, row: int) -> dict[str, Any]:
        seen: dict[str, Any] = {"readable": False, "reason": None, "width": None, "height": None, "sha256": None}
        try:
            data = self.reader.data(row)
            seen["sha256"] = hashlib.sha256(data).hexdigest()
            height, width = decode_rgb(data, self.reader.limits).shape[:2]
        except RefusedImage as error:
            return {**seen, "reason": error.reason}
        except OSError as error:  # the disk, not the image: still a row with a reason, the run goes on
            return {**seen, "reason": f"read error: {error.strerror or error}"}
        return {**seen, "readable": True, "width": width, "height": height}


def _columns(rows: np.ndarray, seen: dict[str, Any]) -> Output:
    types = {
        "readable": pa.bool_(),
        "reason": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "sha256": pa.string(),
    }
    return {name: pa.array(seen.get(name, []), kind) for name, kind in types.items()}, {}
