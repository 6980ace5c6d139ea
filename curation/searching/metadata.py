"""Rows of published tables, in Parquet or Arrow files, picked without reading the files whole."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

# What publishers call these columns, in any case: DataComp url, text, uid; LAION URL, TEXT, LICENSE, SAMPLE_ID;
# clip-retrieval url, caption, key.
USUAL = {
    "url": ("url",),
    "caption": ("caption", "text"),
    "licence": ("licence", "license"),
    "id": ("uid", "id", "key", "sample_id"),
}
ROWS = pa.schema([("row", pa.int64()), *((name, pa.string()) for name in USUAL)])


@dataclass(frozen=True)
class Columns:
    """Names of the columns in a table of images; null takes what such columns are usually called, if it is there.

    Args:
        url: Address of the image.
        caption: Its text.
        licence: Its licence.
        id: Its name in the table; the row's number where the table has none.
    """

    url: str | None = None
    caption: str | None = None
    licence: str | None = None
    id: str | None = None

    def resolve(self, names: list[str], path: Path, key: str) -> dict[str, str]:
        """url, caption, licence, id -> column, of those there are. Raises ValueError naming `key` and the file."""
        found: dict[str, str] = {}
        for ours, usual in USUAL.items():
            given = getattr(self, ours)
            if given is not None and given not in names:
                raise ValueError(f"{key}.{ours} is {given!r}, but {path} has the columns {', '.join(names)}")
            theirs = given or next((name for word in usual for name in names if name.lower() == word), None)
            if theirs is not None:
                found[ours] = theirs
        if "url" not in found:
            raise ValueError(f"{path} has no column `url`, but {', '.join(names)}; name the addresses' in {key}.url")
        return found


@dataclass(frozen=True)
class MetadataFile:
    """One file of a table. first: the number of its first row in the whole table."""

    path: Path
    first: int
    rows: int

    def take(self, rows: np.ndarray, columns: Columns, key: str) -> pa.Table:
        """row, url, caption, licence, id (all text but `row`) of rows of the whole table that lie in this file.

        rows: int64, ascending.
        """
        wanted = columns.resolve(column_names(self.path), self.path, key)
        read = _take_parquet if self.path.suffix == ".parquet" else _take_arrow
        found = read(self.path, rows - self.first, list(wanted.values()))
        numbers = pa.array(rows, pa.int64())
        nothing = pa.nulls(len(rows), pa.string())
        texts = {"url": nothing, "caption": nothing, "licence": nothing, "id": numbers.cast(pa.string())}
        texts |= {ours: found[theirs].cast(pa.string()) for ours, theirs in wanted.items()}
        return pa.table({"row": numbers, **texts}, schema=ROWS)


def metadata_files(paths: list[Path]) -> list[MetadataFile]:
    """The files of a table in order, each with its place in the whole."""
    files: list[MetadataFile] = []
    first = 0
    for path in paths:
        files.append(MetadataFile(path, first, count_rows(path)))
        first += files[-1].rows
    return files


def count_rows(path: Path) -> int:
    """Rows of a Parquet or Arrow file, from its footer or its batches' headers."""
    if path.suffix == ".parquet":
        return int(pq.read_metadata(path).num_rows)
    with pa.memory_map(str(path)) as mapped, pa.ipc.open_file(mapped) as reader:
        return sum(reader.get_batch(number).num_rows for number in range(reader.num_record_batches))


def column_names(path: Path) -> list[str]:
    """Names of a file's columns."""
    if path.suffix == ".parquet":
        return list(pq.read_schema(path).names)
    with pa.memory_map(str(path)) as mapped, pa.ipc.open_file(mapped) as reader:
        return list(reader.schema.names)


def _take_parquet(path: Path, rows: np.ndarray, names: list[str]) -> pa.Table:
    """Rows of a Parquet file, reading only the row groups that hold one."""
    pieces = []
    with pq.ParquetFile(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            end = first + file.metadata.row_group(group).num_rows
            inside = rows[np.searchsorted(rows, first) : np.searchsorted(rows, end)] - first
            if len(inside):
                pieces.append(file.read_row_group(group, columns=names).take(pa.array(inside)))
            first = end
        return pa.concat_tables(pieces) if pieces else file.schema_arrow.empty_table().select(names)


def _take_arrow(path: Path, rows: np.ndarray, names: list[str]) -> pa.Table:
    """Rows of a memory-mapped Arrow file, batch by batch: a column of a whole file can be beyond 2^31 bytes."""
    with pa.memory_map(str(path)) as mapped, pa.ipc.open_file(mapped) as reader:
        pieces = [reader.schema.empty_table().select(names)]
        first = 0
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            inside = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + batch.num_rows)] - first
            if len(inside):
                pieces.append(pa.table(batch.select(names).take(pa.array(inside))))
            first += batch.num_rows
        return pa.concat_tables(pieces)
