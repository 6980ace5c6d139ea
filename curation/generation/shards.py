"""Shards of generated images: a tar and, beside it, the table of its rows, as img2dataset lays them out."""

import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation.workspace import write_table
from datamodules.files import atomic

SUCCESS, FAILED = "success", "failed_to_generate"

SHARD_SCHEMA = pa.schema(
    [
        ("key", pa.string()), ("status", pa.string()), ("error_message", pa.string()), ("caption", pa.string()),
        ("concept", pa.string()), ("model", pa.string()), ("revision", pa.string()), ("seed", pa.int64()),
        ("number", pa.int32()), ("picture", pa.string()), ("unsafe", pa.bool_()), ("width", pa.int32()),
        ("height", pa.int32()), ("sha256", pa.string()),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """A row of a shard: its columns (of SHARD_SCHEMA; absent ones are null), and the JPEG unless it failed."""

    columns: dict[str, Any]
    jpeg: bytes | None


def shard_path(folder: Path, number: int) -> Path:
    """NNNNN.tar of a folder; its table is the .parquet beside it."""
    return folder / f"{number:05d}.tar"


def is_whole(folder: Path, number: int) -> bool:
    """Whether a shard was written to its end: its table comes last."""
    path = shard_path(folder, number)
    return path.exists() and path.with_suffix(".parquet").exists()


def shard_numbers(folder: Path) -> list[int]:
    """Numbers of the whole shards of a folder, ascending."""
    numbers = (int(path.stem) for path in folder.glob("*.parquet") if re.fullmatch(r"\d{5,}", path.stem))
    return sorted(number for number in numbers if is_whole(folder, number))


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed run left: files without their other half, and temporary ones.

    A tar without its table would be indexed, and its images again in the shard that they are made for anew.
    """
    whole = set(shard_numbers(folder))
    for path in sorted(folder.iterdir()) if folder.exists() else ():
        half = re.fullmatch(r"(\d{5,})\.(tar|parquet)", path.name)
        if re.fullmatch(r"\..*\.tmp", path.name) or (half and int(half[1]) not in whole):
            path.unlink()


def write_shard(folder: Path, number: int, samples: Sequence[Sample], recipe: dict[str, Any]) -> None:
    """Writes NNNNN.tar (KEY.jpg, KEY.txt, KEY.json of every image there is), then NNNNN.parquet of all rows.

    recipe: what the .json says besides the row's columns, the same for all. The same samples give the same bytes.
    """
    path = shard_path(folder, number)
    with atomic(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in _members(samples, recipe):
            member = tarfile.TarInfo(name)  # time 0, no owner
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    rows = [{name: sample.columns.get(name) for name in SHARD_SCHEMA.names} for sample in samples]
    try:
        write_table(path.with_suffix(".parquet"), pa.Table.from_pylist(rows, schema=SHARD_SCHEMA))
    except OSError:  # no room: the tar's own is given back
        path.unlink()
        raise


def _members(samples: Iterable[Sample], recipe: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    for sample in samples:
        if sample.jpeg is not None:
            key, about = sample.columns["key"], {**sample.columns, **recipe}
            yield f"{key}.jpg", sample.jpeg
            yield f"{key}.txt", sample.columns["caption"].encode()
            yield f"{key}.json", json.dumps(about, ensure_ascii=False, sort_keys=True).encode()


def read_made(folder: Path) -> pa.Table:
    """key, status, error_message and unsafe of every row of the whole shards."""
    names = ["key", "status", "error_message", "unsafe"]
    schema = pa.schema([SHARD_SCHEMA.field(name) for name in names])
    files = [shard_path(folder, number).with_suffix(".parquet") for number in shard_numbers(folder)]
    return pa.concat_tables([schema.empty_table(), *(pq.read_table(file, columns=names) for file in files)])
