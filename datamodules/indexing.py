"""Where every image of a pool lies: folders and tar shards, indexed in place."""

import errno
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datamodules.tars import MAX_TEXT_BYTES, TarScan

IMAGE_ENDINGS = frozenset({"jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff"})

INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()), ("source", pa.string()), ("root", pa.string()), ("shard", pa.string()),
        ("offset", pa.int64()), ("size", pa.int64()), ("ext", pa.string()), ("caption", pa.string()),
        ("url", pa.string()), ("licence", pa.string()), ("status", pa.string()), ("reason", pa.string()),
    ]
)  # fmt: skip

# Columns of the index <- names in img2dataset's tables and in .json files
DESCRIPTION = {
    "caption": ("caption",), "url": ("url",), "licence": ("licence", "license"), "status": ("status",),
    "reason": ("error_message",),
}  # fmt: skip


def index_pool(path: str | Path, root: str = "pool", source: str = "real") -> pa.Table:
    """The index (INDEX_SCHEMA) of a folder of images, of tar shards, or of both; sorted by key, keys unique.

    A row points to (shard, offset, size); nothing is copied. The caption is the .txt beside an image; what describes
    it further is img2dataset's NNNNN.parquet beside a shard (joined by key), else the image's .json. Failed downloads
    are rows whose size is null. Keys are the shard's own, prefixed by the shard's name where two shards share one; in
    folders, the relative path. Damage (a tar that was cut, a link to nothing) is told as a JSON list of sentences in
    the schema's metadata under `warnings`. Raises FileNotFoundError or ValueError naming `pool`.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"pool: {path} does not exist; give a folder of images or of tar shards")
    if path.is_file() and path.suffix.lower() != ".tar":
        raise ValueError(f"pool: {path} is a file but no .tar; give a folder of images or of tar shards")
    notes: list[str] = []
    folder, files = (path.parent, [path.name]) if path.is_file() else (path, list(walk_files(path, notes)))
    tars = [name for name in files if name.lower().endswith(".tar")]
    tables = _unique_keys([_index_tar(folder, name, notes) for name in tars])
    tables.append(_index_images(folder, files, notes))
    table = pa.concat_tables(tables)
    if not table.num_rows:
        raise ValueError(
            f"pool: {path} holds no image; expected files ending in {', '.join(sorted(IMAGE_ENDINGS))}, or .tar shards "
            f"of them{'. ' + '. '.join(notes[:3]) if notes else ''}"
        )
    table = _with(table, root=root, source=source).select(INDEX_SCHEMA.names).sort_by("key").combine_chunks()
    twice = table["key"].value_counts().filter(pc.greater(table["key"].value_counts().field("counts"), 1))
    if len(twice):
        raise ValueError(f"pool: {path} has two images with the key {twice[0]['values'].as_py()!r}; rename one of them")
    return table.cast(INDEX_SCHEMA).replace_schema_metadata({"warnings": json.dumps(notes)} if notes else None)


def walk_files(folder: Path, notes: list[str] | None = None) -> Iterator[str]:
    """Relative paths, with slashes, of all files below a folder; folder by folder, each sorted by name.

    Hidden names are left out. Links to folders are followed unless they lead to one that is walked already, or to one
    that holds `folder` itself. Names that are not UTF-8 are left out and told in `notes`: no column could hold them.
    """
    top = os.path.realpath(folder)
    seen: set[str] = set()
    for current, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(current)
        if real in seen or (real != top and top.startswith(real.rstrip(os.sep) + os.sep)):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = os.path.relpath(current, folder)
        prefix = "" if relative == "." else relative.replace(os.sep, "/") + "/"
        for name in sorted(names):
            if name.startswith("."):
                continue
            if _is_utf8(prefix + name):
                yield prefix + name
            elif notes is not None:
                notes.append(f"{prefix + name!a} is left out, as its name is not UTF-8; rename it")


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def ending(name: str) -> str:
    """What follows the last dot of a file name, in small letters."""
    return name.rpartition("/")[2].rpartition(".")[2].lower()


def _with(table: pa.Table, **constants: str | None) -> pa.Table:
    """Appends (or replaces) columns of one value."""
    for name, value in constants.items():
        column = pa.repeat(pa.scalar(value, pa.string()), table.num_rows)
        place = table.schema.get_field_index(name)
        table = table.append_column(name, column) if place < 0 else table.set_column(place, name, column)
    return table


def _index_images(folder: Path, files: list[str], notes: list[str]) -> pa.Table:
    """The loose images among the files of a folder, described by the .txt and .json of the same stem."""
    names = set(files)
    samples = _Samples()
    for name in files:
        if ending(name) not in IMAGE_ENDINGS:
            continue
        try:
            status = os.stat(folder / name)
        except OSError as error:
            notes.append(f"{name} cannot be read ({error.strerror}) and is left out")
            continue
        if not stat.S_ISREG(status.st_mode):
            continue
        stem = name.rpartition(".")[0]
        texts = {kind: _text(folder / f"{stem}.{kind}") for kind in ("txt", "json") if f"{stem}.{kind}" in names}
        samples.add(name, 0, status.st_size, ending(name), texts.get("txt"), texts.get("json"))
    table = samples.table()
    return table.append_column("shard", table["key"])


def _text(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.stat().st_size <= MAX_TEXT_BYTES else None
    except OSError:
        return None


@dataclass
class _Samples:
    """Growing columns of the images of one folder or shard."""

    places: dict[str, list[Any]] = field(
        default_factory=lambda: {name: [] for name in ("key", "offset", "size", "ext")}
    )
    texts: dict[str, list[str | None]] = field(default_factory=lambda: {name: [] for name in DESCRIPTION})

    def add(self, key: str, offset: int, size: int, ext: str, text: bytes | None, described: bytes | None) -> None:
        for column, value in zip(self.places.values(), (key, offset, size, ext), strict=True):
            column.append(value)
        values = _parse(described) if described else {}
        if text is not None:
            values["caption"] = text.decode("utf-8", "replace").strip() or values.get("caption")
        for name, column in self.texts.items():
            column.append(values.get(name))

    def table(self) -> pa.Table:
        columns = {**self.places, **self.texts}
        return pa.table(
            {name: pa.array(column, INDEX_SCHEMA.field(name).type) for name, column in columns.items()}
        ).set_column(
            list(columns).index("status"),
            "status",
            pc.fill_null(pa.array(self.texts["status"], pa.string()), "success"),
        )


def _parse(text: bytes) -> dict[str, str | None]:
    """What a .json says of its image; nothing if it is not a JSON object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    small = {key.lower(): value for key, value in found.items() if isinstance(value, str) and _is_utf8(value)}
    return {name: next((small[key] for key in keys if key in small), None) for name, keys in DESCRIPTION.items()}


def _index_tar(folder: Path, shard: str, notes: list[str]) -> pa.Table:
    """The samples of one shard: members that share a name up to the first dot of its last part."""
    known = _read_metadata((folder / shard).with_suffix(".parquet"), notes)
    samples = _Samples()
    try:
        if not (folder / shard).is_file():  # a pipe would keep its reader waiting for ever
            raise FileNotFoundError(errno.ENOENT, "no such file")
        groups = _group(folder / shard, known is None, notes)
    except OSError as error:
        notes.append(f"{shard} cannot be read ({error.strerror}) and is left out")
        groups = {}
    for key, parts in groups.items():
        kind = next((kind for kind in parts if kind in IMAGE_ENDINGS), None)
        if kind is not None:
            offset, size = parts[kind]
            samples.add(key, offset, size, kind, parts.get("txt"), parts.get("json"))
    table = samples.table()
    if known is not None:
        table = _join(table, known)
    return _with(table, shard=shard)


def _group(path: Path, described: bool, notes: list[str]) -> dict[str, dict[str, Any]]:
    """Key -> ending -> (offset, size) of a member, or the bytes of a .txt or (if described) .json."""
    groups: dict[str, dict[str, Any]] = {}
    with TarScan(path) as tar:
        for name, offset, size in tar.members():
            folder, _, last = name.removeprefix("./").lstrip("/").rpartition("/")
            stem, _, kind = last.partition(".")
            if not stem:
                continue  # hidden
            kind = kind.lower()
            key = f"{folder}/{stem}" if folder else stem
            value: Any = (offset, size)
            # `IMG.1.jpg` is a picture too, unless it is a further picture of a sample (`7.jpg`, `7.mask.png`).
            last = ending(kind)
            if last == "txt" or last == "json" and described:
                value = tar.read(offset, size) if size <= MAX_TEXT_BYTES else None
            elif last not in IMAGE_ENDINGS:
                continue
            groups.setdefault(key, {})[kind] = value
        if tar.damage:
            notes.append(tar.damage)
    return _with_dotted(groups)


def _with_dotted(groups: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Splits samples without a plain image by the last dot: names of unpacked folders often have several dots."""
    result: dict[str, dict[str, Any]] = {}
    for key, parts in groups.items():
        if not any("." in kind for kind in parts) or any(kind in IMAGE_ENDINGS for kind in parts):
            result[key] = parts
            continue
        for kind, value in parts.items():
            stem, _, last = kind.rpartition(".")
            result.setdefault(f"{key}.{stem}" if stem else key, {})[last] = value
    return result


def _read_metadata(path: Path, notes: list[str]) -> pa.Table | None:
    """img2dataset's table, its columns named as the index's and `key`; None where there is none."""
    if not path.is_file():
        return None
    try:
        names = {name.lower(): name for name in pq.read_schema(path).names}
        wanted = {
            column: next((names[n] for n in aliases if n in names), None) for column, aliases in DESCRIPTION.items()
        }
        if "key" not in names:
            return None  # some other table that lies beside the shard
        found = pq.read_table(path, columns=[names["key"], *(name for name in wanted.values() if name)])
        table = pa.table({"key": found[names["key"]].cast(pa.string())})
        for column, name in wanted.items():
            values = found[name].cast(pa.string()) if name else pa.nulls(table.num_rows, pa.string())
            table = table.append_column(column, values)
    except (pa.ArrowException, OSError) as error:
        notes.append(f"{path.name} cannot be read ({str(error).splitlines()[0]}); its shard is used without it")
        return None
    return table.filter(pc.is_valid(table["key"])).combine_chunks()


def _join(images: pa.Table, known: pa.Table) -> pa.Table:
    """Describes images by img2dataset's table, and appends its failed downloads as rows without an image.

    Joined by key: the table's order is that of completion, not the shard's.
    """
    rows = pc.index_in(images["key"], value_set=known["key"].combine_chunks())
    for name in ("caption", "url", "licence"):
        column = pc.coalesce(images[name], known[name].take(rows))
        images = images.set_column(images.schema.get_field_index(name), name, column)
    first = pc.equal(
        pc.index_in(known["key"], value_set=known["key"].combine_chunks()), pa.array(range(known.num_rows))
    )
    absent = pc.is_null(pc.index_in(known["key"], value_set=images["key"].combine_chunks()))
    failed = known.filter(pc.and_(first, absent))
    # Reported as downloaded, but not in the shard (it was cut): no success either.
    lost = pc.fill_null(pc.equal(failed["status"], "success"), True)
    status = pc.if_else(lost, "failed_missing", failed["status"])
    reason = pc.if_else(lost, "the shard has no image of this key", failed["reason"])
    failed = failed.set_column(failed.schema.get_field_index("status"), "status", status)
    failed = failed.set_column(failed.schema.get_field_index("reason"), "reason", reason)
    return pa.concat_tables([images, failed], promote_options="default").combine_chunks()


def _unique_keys(tables: list[pa.Table]) -> list[pa.Table]:
    """Prefixes all keys of the shards with the shard's name if two shards share a key."""
    if not tables:
        return []
    keys = pa.chunked_array([chunk for table in tables for chunk in table["key"].chunks], pa.string())
    if len(pc.unique(keys)) == len(keys):
        return tables
    return [
        table.set_column(
            0,
            "key",
            pc.binary_join_element_wise(pc.replace_substring_regex(table["shard"], r"\.\w+$", ""), table["key"], "/"),
        )
        for table in tables
    ]
