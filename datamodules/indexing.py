"""Where every image of a pool lies: folders and tar shards, indexed in place."""

import errno
import itertools
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.descriptions import (
    DESCRIPTION,
    GENERATED,
    INDEX_SCHEMA,
    Description,
    Samples,
    is_utf8,
    read_metadata,
    read_text,
)
from datamodules.tars import MAX_TEXT_BYTES, TarScan

IMAGE_ENDINGS = frozenset({"jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff"})

ROWS_PER_TABLE = 65_536  # of loose images: what is held as Python objects at a time


def index_pool(path: str | Path, root: str = "pool", source: str = "real", skip: Path | None = None) -> pa.Table:
    """The index (INDEX_SCHEMA) of a folder of images, of tar shards, or of both; sorted by key, keys unique.

    A row points to (shard, offset, size); nothing is copied. The caption is the .txt beside an image; what describes
    it further is img2dataset's NNNNN.parquet beside a shard (joined by key), else the image's .json; a synthetic
    image's also says what made it. Failed downloads are rows whose size is null. Keys are the shard's own, prefixed by
    the shard's name where two shards share one; in folders, the relative path. Damage (a tar that was cut, a link to
    nothing) is told as a JSON list of sentences in the schema's metadata under `warnings`.
    skip: a folder that is left out, as if it were not below `path`.
    Raises FileNotFoundError or ValueError naming the input.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{root}: {path} does not exist; give a folder of images or of tar shards")
    if path.is_file() and path.suffix.lower() != ".tar":
        raise ValueError(f"{root}: {path} is a file but no .tar; give a folder of images or of tar shards")
    notes: list[str] = []
    described = {**DESCRIPTION, **(GENERATED if source == "synthetic" else {})}
    folder = path.parent if path.is_file() else path
    tars: list[str] = []
    loose = _index_images(
        folder, [path.name] if path.is_file() else walk_files(path, notes, skip), tars, described, notes
    )
    tables = _unique_keys([_index_tar(folder, name, described, notes) for name in tars])
    table = pa.concat_tables([*tables, *loose])
    if not table.num_rows:
        raise ValueError(
            f"{root}: {path} holds no image; expected files ending in {', '.join(sorted(IMAGE_ENDINGS))}, or .tar "
            f"shards of them{'. ' + '. '.join(notes[:3]) if notes else ''}"
        )
    table = _whole(_with(table, root=root, source=source)).sort_by("key").combine_chunks()
    twice = table["key"].value_counts().filter(pc.greater(table["key"].value_counts().field("counts"), 1))
    if len(twice):
        raise ValueError(
            f"{root}: {path} has two images with the key {twice[0]['values'].as_py()!r}; rename one of them"
        )
    return table.replace_schema_metadata({"warnings": json.dumps(notes)} if notes else None)


def _whole(table: pa.Table) -> pa.Table:
    """All columns of the index; null where nothing is known. A download that its server forbids is an opt-out."""
    for name, kind in zip(INDEX_SCHEMA.names, INDEX_SCHEMA.types, strict=True):
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows, kind))
    forbidden = pc.match_substring(pc.fill_null(table["reason"], ""), "X-Robots-Tag")
    place = table.schema.get_field_index("opt_out")
    table = table.set_column(place, "opt_out", pc.if_else(forbidden, True, table["opt_out"]))
    return table.select(INDEX_SCHEMA.names).cast(INDEX_SCHEMA)


def join_inputs(inputs: Mapping[str, pa.Table]) -> pa.Table:
    """The indices of several inputs (name -> table) as one, sorted by key.

    Keys that two inputs share are prefixed with the input's name, in all of those inputs' rows.
    """
    tables = list(inputs.values())
    if len(tables) > 1:
        counts = pa.concat_tables([table.select(["key"]) for table in tables])["key"].value_counts()
        shared = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
        tables = [_prefixed(table, name) if _any_in(table, shared) else table for name, table in inputs.items()]
    notes = [note for table in inputs.values() for note in warnings_of(table)]
    table = pa.concat_tables([table.replace_schema_metadata(None) for table in tables]).sort_by("key").combine_chunks()
    return table.replace_schema_metadata({"warnings": json.dumps(notes)} if notes else None)


def warnings_of(table: pa.Table) -> list[str]:
    """The sentences about damage in an index."""
    return list(json.loads((table.schema.metadata or {}).get(b"warnings", b"[]")))


def _any_in(table: pa.Table, keys: pa.Array) -> bool:
    return bool(len(keys)) and bool(pc.any(pc.is_in(table["key"], value_set=keys)).as_py())


def _prefixed(table: pa.Table, name: str) -> pa.Table:
    keys = pc.binary_join_element_wise(pa.scalar(name), table["key"], "/")
    return table.set_column(table.schema.get_field_index("key"), "key", keys)


def walk_files(folder: Path, notes: list[str] | None = None, skip: Path | None = None) -> Iterator[str]:
    """Relative paths, with slashes, of all files below a folder; folder by folder, each sorted by name.

    Hidden names are left out. Links to folders are followed unless they lead to one that is walked already, or to one
    that holds `folder` itself. Names that are not UTF-8 are left out and told in `notes`: no column could hold them.
    `skip`: a folder that is not walked.
    """
    top = os.path.realpath(folder)
    seen: set[str] = set() if skip is None else {os.path.realpath(skip)}
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
            if is_utf8(prefix + name):
                yield prefix + name
            elif notes is not None:
                notes.append(f"{prefix + name!a} is left out, as its name is not UTF-8; rename it")


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


def _index_images(
    folder: Path, files: Iterable[str], tars: list[str], described: Description, notes: list[str]
) -> list[pa.Table]:
    """The loose images among the files of a folder, described by the .txt and .json of the same stem; lists tars."""
    tables = []
    samples = Samples(described)
    for _, group in itertools.groupby(files, key=lambda name: name.rpartition("/")[0]):
        names = set(group)
        for name in sorted(names):
            if name.lower().endswith(".tar"):
                tars.append(name)
            elif ending(name) in IMAGE_ENDINGS:
                _add_image(samples, folder, name, names, notes)
            if len(samples) >= ROWS_PER_TABLE:
                tables.append(samples.table())
                samples = Samples(described)
    return [table.append_column("shard", table["key"]) for table in (*tables, samples.table())]


def _add_image(samples: "Samples", folder: Path, name: str, names: set[str], notes: list[str]) -> None:
    try:
        status = os.stat(folder / name)
    except OSError as error:
        notes.append(f"{name} cannot be read ({error.strerror}) and is left out")
        return
    if not stat.S_ISREG(status.st_mode):
        return
    stem = name.rpartition(".")[0]
    texts = {kind: read_text(folder / f"{stem}.{kind}") for kind in ("txt", "json") if f"{stem}.{kind}" in names}
    samples.add(name, 0, status.st_size, ending(name), texts.get("txt"), texts.get("json"))


def _index_tar(folder: Path, shard: str, described: Description, notes: list[str]) -> pa.Table:
    """The samples of one shard: members that share a name up to the first dot of its last part."""
    known = read_metadata((folder / shard).with_suffix(".parquet"), described, notes)
    samples = Samples(described)
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


def _join(images: pa.Table, known: pa.Table) -> pa.Table:
    """Describes images by img2dataset's table, and appends its failed downloads as rows without an image.

    Joined by key: the table's order is that of completion, not the shard's.
    """
    rows = pc.index_in(images["key"], value_set=known["key"].combine_chunks())
    for name in images.column_names:
        if name not in known.column_names or name in ("key", "status", "reason"):
            continue
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
