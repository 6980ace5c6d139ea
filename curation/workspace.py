"""The workspace on disk: one folder per data set, in ordinary formats (Parquet, NumPy, JSON)."""

import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.embeddings import Embeddings, StoredPart
from datamodules.files import atomic, read_json, write_json


def result_print(record: dict[str, Any]) -> str:
    """What identifies the result of a finished stage for those that read it: its fingerprint, and what came of it.

    What came of it counts where the same settings can give another result, as when answers failed that come later.
    """
    output = record.get("output")
    return f"{record['fingerprint']}-{output}" if output else str(record["fingerprint"])


def write_table(path: Path, table: pa.Table) -> None:
    """Writes a Parquet file atomically; the same table gives the same bytes."""
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", store_schema=True)


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes a .npy file atomically, as np.save does, whose error on a full disk does not say that it is full."""
    array = np.asarray(array, order="C")
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def write_part(
    folder: Path, number: int, rows: np.ndarray, keys: pa.Array, columns: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    """Writes one part of a stage: `part-NNNNN.<name>.npy` for each array, then `part-NNNNN.parquet`."""
    stem = f"part-{number:05d}"
    for name, array in arrays.items():
        write_array(folder / f"{stem}.{name}.npy", array)
    table = pa.table({"row": pa.array(rows, pa.int64()), "key": keys.take(pa.array(rows)), **columns})
    write_table(folder / f"{stem}.parquet", table)


class Workspace:
    """Paths and tables of one workspace. Rows are the rows of the image index, sorted by key, and never deleted."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    @property
    def index_folder(self) -> Path:
        """images/index: the table of all images and roots.json."""
        return self.root / "images" / "index"

    def stage_folder(self, stage: str) -> Path:
        """columns/<stage>; what is no column of the images has a folder of its own."""
        special = {
            "concepts": "concepts", "captions": "captions", "scenes": "scenes", "index": "images/index",
            "fetch": "images/fetched", "synthesis": "images/synthetic",
        }  # fmt: skip
        return self.root / special.get(stage, f"columns/{stage}")

    def dataset_folder(self, name: str = "full") -> Path:
        """dataset/<name>: manifest.parquet and roots.json."""
        return self.root / "dataset" / name

    def manifest(self, name: str = "full") -> Path:
        """dataset/<name>/manifest.parquet."""
        return self.dataset_folder(name) / "manifest.parquet"

    @property
    def report(self) -> Path:
        """report/index.html."""
        return self.root / "report" / "index.html"

    def stage_record(self, stage: str) -> dict[str, Any] | None:
        """stage.json of a finished stage, else None."""
        return read_json(self.stage_folder(stage) / "stage.json")

    def current_record(self, stage: str) -> dict[str, Any] | None:
        """stage.json of a finished stage if what it read is still what is there, else None.

        Between an interrupted rerun of an early stage and its end, later stages still hold columns of the old rows.
        """
        record = self.stage_record(stage)
        reads = (record or {}).get("print", {}).get("reads", {})
        parents = {name: self.current_record(name) for name in reads}
        same = all(parent and result_print(parent) == reads[name] for name, parent in parents.items())
        return record if same else None

    @functools.cached_property
    def index(self) -> pa.Table:
        """The image index, one row an image, sorted by key."""
        if self.stage_record("index") is None:
            raise FileNotFoundError(f"{self.index_folder} holds no finished index; run `curate` with this config first")
        return read_parts(self.index_folder).combine_chunks()

    @functools.cached_property
    def roots(self) -> dict[str, Path]:
        """Name of each input -> its folder."""
        return {name: Path(path) for name, path in (read_json(self.index_folder / "roots.json") or {}).items()}

    def write_index(self, table: pa.Table, roots: dict[str, Path], rows_per_part: int = 1_000_000) -> None:
        """Writes the index and the folders that its rows are in."""
        for number, first in enumerate(range(0, table.num_rows, rows_per_part)):
            write_table(self.index_folder / f"part-{number:05d}.parquet", table.slice(first, rows_per_part))
        write_json(self.index_folder / "roots.json", {name: str(path) for name, path in roots.items()})
        self.__dict__.pop("index", None)
        self.__dict__.pop("roots", None)

    def columns(self, stage: str, names: Iterable[str] | None = None) -> pa.Table:
        """Columns of a finished stage (with `row` and `key`), in row order. Raises FileNotFoundError before it ran."""
        if self.stage_record(stage) is None:
            raise FileNotFoundError(
                f"{self.stage_folder(stage)} has no stage.json: the stage '{stage}' has not finished; "
                "run `curate` with this config first"
            )
        return read_parts(self.stage_folder(stage), None if names is None else ["row", *names])

    def rows_where(self, stage: str, name: str) -> np.ndarray:
        """Rows of the index, bool [N], whose value of a stage's column is true (of another type: is not null).

        False where the stage did not see the row. Makes no Python object per row.
        """
        table = self.columns(stage, [name])
        column = table[name]
        holds = pc.fill_null(column, False) if pa.types.is_boolean(column.type) else pc.is_valid(column)
        mask = np.zeros(self.index.num_rows, bool)
        mask[table["row"].to_numpy()] = holds.to_numpy()
        return mask

    def embedding_parts(self, stage: str, name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(rows int64 [n], float16 [n, D] memory-mapped) of every `part-*.<name>.npy` of a stage, in row order."""
        for rows, part in self._stored_parts(stage, name):
            yield rows, part[:]

    def embeddings(self, stage: str, name: str) -> tuple[np.ndarray, Embeddings]:
        """(rows int64 [n], embeddings [n, D] of unit length, still on disk) that a stage stored as `part-*.<name>.npy`.

        Similarities compare unit vectors; float16 storage leaves lengths within 1e-3 of one.
        """
        parts = list(self._stored_parts(stage, name))
        if not parts:
            return np.empty(0, np.int64), Embeddings([])
        return np.concatenate([rows for rows, _ in parts]), Embeddings([part for _, part in parts])

    def _stored_parts(self, stage: str, name: str) -> Iterator[tuple[np.ndarray, StoredPart]]:
        for path in part_files(self.stage_folder(stage)):
            part = StoredPart(path.with_name(f"{path.stem}.{name}.npy"))
            table = pq.read_table(path)
            rows = table["row"].to_numpy()
            if len(rows) != len(part):  # arrays of a subset of rows carry a mask column of the same name
                rows = rows[table[f"has_{name}"].to_numpy(zero_copy_only=False)]
            yield rows, part


def part_files(folder: Path) -> list[Path]:
    """part-00000.parquet, ... of a folder, in order."""
    return sorted(path for path in folder.glob("part-*.parquet") if re.fullmatch(r"part-\d+", path.stem))


def read_parts(folder: Path, names: list[str] | None = None) -> pa.Table:
    """All parts of a folder as one table."""
    files = part_files(folder)
    if not files:
        raise FileNotFoundError(f"{folder} holds no part-*.parquet")
    return pa.concat_tables([pq.read_table(path, columns=names) for path in files])
