"""What an index holds of every image, and where the descriptions come from: .txt, .json, img2dataset's tables."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datamodules.tars import MAX_TEXT_BYTES

INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()), ("source", pa.string()), ("root", pa.string()), ("shard", pa.string()),
        ("offset", pa.int64()), ("size", pa.int64()), ("ext", pa.string()), ("caption", pa.string()),
        ("url", pa.string()), ("licence", pa.string()), ("status", pa.string()), ("reason", pa.string()),
        ("opt_out", pa.bool_()), ("made_for", pa.string()), ("model", pa.string()), ("revision", pa.string()),
        ("seed", pa.int64()), ("unsafe", pa.bool_()),
    ]
)  # fmt: skip

# Columns of the index <- names in img2dataset's tables and in .json files
DESCRIPTION = {
    "caption": ("caption",), "url": ("url",), "licence": ("licence", "license"), "status": ("status",),
    "reason": ("error_message",), "opt_out": ("opt_out",),
}  # fmt: skip
# ... and of generated images: the concept they show, and what reproduces them. A real image's table may have columns
# of these names that mean something else.
GENERATED = {
    "made_for": ("concept",), "model": ("model",), "revision": ("revision",), "seed": ("seed",), "unsafe": ("unsafe",),
}  # fmt: skip

Description = Mapping[str, tuple[str, ...]]


class Samples:
    """Growing columns of the images of one folder or shard."""

    def __init__(self, described: Description) -> None:
        self.described = described
        self.places: dict[str, list[Any]] = {name: [] for name in ("key", "offset", "size", "ext")}
        self.facts: dict[str, list[Any]] = {name: [] for name in described}

    def __len__(self) -> int:
        return len(self.places["key"])

    def add(self, key: str, offset: int, size: int, ext: str, text: bytes | None, about: bytes | None) -> None:
        """One image with the bytes of its .txt and .json, where it has them."""
        for column, value in zip(self.places.values(), (key, offset, size, ext), strict=True):
            column.append(value)
        values = _parse(about, self.described) if about else {}
        if text is not None:
            values["caption"] = text.decode("utf-8", "replace").strip() or values.get("caption")
        for name, column in self.facts.items():
            column.append(values.get(name))

    def table(self) -> pa.Table:
        """The columns so far; what says nothing of its status is there, so its download was a success."""
        columns = {
            name: pa.array(column, INDEX_SCHEMA.field(name).type)
            for name, column in {**self.places, **self.facts}.items()
        }
        columns["status"] = pc.fill_null(columns["status"], "success")
        return pa.table(columns)


def _parse(text: bytes, described: Description) -> dict[str, Any]:
    """What a .json says of its image; nothing if it is not a JSON object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    small = {key.lower(): value for key, value in found.items()}
    values = {name: next((small[key] for key in keys if key in small), None) for name, keys in described.items()}
    return {name: value for name, value in values.items() if _fits(value, INDEX_SCHEMA.field(name).type)}


def _fits(value: Any, kind: pa.DataType) -> bool:
    if isinstance(value, bool):
        return bool(pa.types.is_boolean(kind))
    if isinstance(value, int):
        return bool(pa.types.is_int64(kind)) and -(2**63) <= value < 2**63
    return isinstance(value, str) and bool(pa.types.is_string(kind)) and is_utf8(value)


def read_metadata(path: Path, described: Description, notes: list[str]) -> pa.Table | None:
    """img2dataset's table, its columns named and typed as the index's, and `key`; None where there is none."""
    if not path.is_file():
        return None
    try:
        names = {name.lower(): name for name in pq.read_schema(path).names}
        wanted = {
            column: next((names[n] for n in aliases if n in names), None) for column, aliases in described.items()
        }
        if "key" not in names:
            return None  # some other table that lies beside the shard
        found = pq.read_table(path, columns=[names["key"], *(name for name in wanted.values() if name)])
        table = pa.table({"key": found[names["key"]].cast(pa.string())})
        for column, name in wanted.items():
            kind = INDEX_SCHEMA.field(column).type
            table = table.append_column(column, _cast(found[name], kind) if name else pa.nulls(table.num_rows, kind))
    except (pa.ArrowException, OSError) as error:
        notes.append(f"{path.name} cannot be read ({str(error).splitlines()[0]}); its shard is used without it")
        return None
    return table.filter(pc.is_valid(table["key"])).combine_chunks()


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """The column in the index's type; nothing is known of a flag or a seed that is none."""
    try:
        return column.cast(kind)
    except pa.ArrowException:
        if pa.types.is_string(kind):
            raise
        return pa.chunked_array([pa.nulls(len(column), kind)])


def read_text(path: Path) -> bytes | None:
    """A small file's bytes; None where it cannot be read or is no description for its size."""
    try:
        return path.read_bytes() if path.stat().st_size <= MAX_TEXT_BYTES else None
    except OSError:
        return None


def is_utf8(name: str) -> bool:
    """Whether a text (such as a file's name as the system gives it) can be written down."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
