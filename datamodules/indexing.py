"""Where every image of a pool lies: folders and tar shards, indexed in place."""

import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

IMAGE_ENDINGS = frozenset({"jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff"})

INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()), ("source", pa.string()), ("root", pa.string()), ("shard", pa.string()),
        ("offset", pa.int64()), ("size", pa.int64()), ("ext", pa.string()), ("caption", pa.string()),
        ("url", pa.string()), ("licence", pa.string()), ("status", pa.string()), ("reason", pa.string()),
    ]
)  # fmt: skip


@dataclass
class _Columns:
    """Growing columns of one part of the index."""

    values: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in INDEX_SCHEMA.names})

    def add(self, **row: Any) -> None:
        for name, column in self.values.items():
            column.append(row.get(name))

    def table(self) -> pa.Table:
        return pa.table(self.values, schema=INDEX_SCHEMA)


def index_pool(path: str | Path, root: str = "pool", source: str = "real") -> pa.Table:
    """The index (INDEX_SCHEMA) of a folder of images, of tar shards, or of both; sorted by key, keys unique.

    A row points to (shard, offset, size); nothing is copied. img2dataset's NNNNN.parquet beside a shard gives url,
    caption, status and error by key; its failed downloads are rows whose size is null. Keys are the shard's own,
    prefixed by the shard's name where two shards share one; in folders, the relative path. Damage (a tar that was
    cut) is told in the schema's metadata under `warnings`. Raises FileNotFoundError or ValueError naming `pool`.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"pool: {path} does not exist; give a folder of images or of shards")
    if path.is_file():
        if path.suffix != ".tar":
            raise ValueError(f"pool: {path} is a file that is no .tar; give a folder of images or of shards")
        tars, base = [path], path.parent
        images: list[str] = []
    else:
        base = path
        tars, images = _files(path)
    notes: list[str] = []
    tables = [_index_tar(tar, tar.relative_to(base).as_posix(), root, source, notes) for tar in tars]
    tables = _unique_keys(tables, tars)
    if images:
        tables.append(_index_folder(base, images, root, source))
    table = pa.concat_tables(tables) if tables else INDEX_SCHEMA.empty_table()
    if not table.num_rows:
        raise ValueError(
            f"pool: {path} holds no image; expected files ending in {', '.join(sorted(IMAGE_ENDINGS))}, or .tar shards "
            f"of them{'. ' + notes[0] if notes else ''}"
        )
    table = table.sort_by("key").combine_chunks()
    return table.replace_schema_metadata({"warnings": json.dumps(notes)} if notes else None)


def _files(folder: Path) -> tuple[list[Path], list[str]]:
    """Tar shards, and relative paths of loose images, below a folder; hidden names and loops are left out."""
    tars, images, seen = [], [], set()
    for current, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(current)
        if real in seen:  # a link back to a folder that was walked already
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith("."):
                continue
            ending = name.rpartition(".")[2].lower()
            if ending == "tar":
                tars.append(Path(current) / name)
            elif ending in IMAGE_ENDINGS:
                images.append(os.path.relpath(os.path.join(current, name), folder))
    return tars, images


def _index_folder(folder: Path, images: list[str], root: str, source: str) -> pa.Table:
    columns = _Columns()
    for name in images:
        path = folder / name
        caption = path.with_suffix(".txt")
        text = caption.read_text(errors="replace").strip() if caption.is_file() else None
        shard = name.replace(os.sep, "/").encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        columns.add(key=shard, source=source, root=root, shard=shard, offset=0, size=path.stat().st_size,
                    ext=name.rpartition(".")[2].lower(), caption=text, status="success")  # fmt: skip
    return columns.table()


def _members(path: Path, notes: list[str]) -> Iterator[tuple[str, int, int]]:
    """(name, offset of the data, size) of the whole files in a tar; what was cut off is noted."""
    length = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                tar.members = []  # tarfile would keep every header in memory
                if not member.isreg():
                    continue
                if member.offset_data + member.size > length:
                    notes.append(f"{path.name} is cut off inside {member.name}; the members before it are used")
                    return
                yield member.name, member.offset_data, member.size
    except tarfile.TarError as error:
        notes.append(f"{path.name} is damaged ({error}); the members before the damage are used")


def _index_tar(path: Path, shard: str, root: str, source: str, notes: list[str]) -> pa.Table:
    """The samples of one shard: members that share a name up to the first dot of the last part."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for name, offset, size in _members(path, notes):
        folder, _, last = name.rpartition("/")
        stem, _, ending = last.partition(".")
        key = f"{folder}/{stem}".removeprefix("./").lstrip("/")
        found.setdefault(key, {})[ending.lower()] = (offset, size)
    table = _read_metadata(path.with_suffix(".parquet"), notes)
    columns = _Columns()
    with open(path, "rb") as file:

        def content(place: tuple[int, int]) -> str:
            return os.pread(file.fileno(), place[1], place[0]).decode("utf-8", "replace")

        for key, parts in found.items():
            row = table.pop(key, {})
            image = next(((ending, place) for ending, place in parts.items() if ending in IMAGE_ENDINGS), None)
            if "json" in parts and not row:
                row = _parse(content(parts["json"]))
            caption = content(parts["txt"]).strip() if "txt" in parts else row.get("caption")
            if image is None and not row:
                continue
            ending, (offset, size) = image or (None, (None, None))
            columns.add(key=key, source=source, root=root, shard=shard, offset=offset, size=size, ext=ending,
                        caption=caption, url=row.get("url"), licence=row.get("license") or row.get("licence"),
                        status=row.get("status") or "success", reason=row.get("error_message"))  # fmt: skip
    for key, row in table.items():  # img2dataset's failed downloads: rows without an image
        columns.add(key=key, source=source, root=root, shard=shard, caption=row.get("caption"), url=row.get("url"),
                    status=row.get("status") or "missing", reason=row.get("error_message"))  # fmt: skip
    return columns.table()


def _read_metadata(path: Path, notes: list[str]) -> dict[str, dict[str, Any]]:
    """Rows of img2dataset's table by key; its order is completion order, never the shard's."""
    if not path.is_file():
        return {}
    try:
        names = set(pq.read_schema(path).names)
        wanted = [n for n in ("key", "url", "caption", "status", "error_message", "license", "licence") if n in names]
        if "key" not in wanted:
            return {}
        return {row["key"]: row for row in pq.read_table(path, columns=wanted).to_pylist()}
    except (pa.ArrowException, OSError) as error:
        notes.append(f"{path.name} cannot be read ({error}); its shard is used without it")
        return {}


def _parse(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    names = ("url", "caption", "status", "error_message", "license", "licence")
    return {name: value[name] for name in names if isinstance(value.get(name), str)} if isinstance(value, dict) else {}


def _unique_keys(tables: list[pa.Table], tars: list[Path]) -> list[pa.Table]:
    """Prefixes the keys of shards that share one with the shard's name."""
    counts: Counter[str] = Counter()
    for table in tables:
        counts.update(table["key"].to_pylist())
    if not counts or max(counts.values()) == 1:
        return tables
    unique = []
    for table in tables:
        shards = table["shard"].to_pylist()
        keys = [f"{shard.removesuffix('.tar')}/{key}" for shard, key in zip(shards, table["key"].to_pylist(), strict=True)]
        unique.append(table.set_column(0, "key", pa.array(keys, pa.string())))
    return unique
