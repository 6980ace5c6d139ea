"""Evaluation images to screen against: folders, shards, or CSVs of paths, each under a name. Imports no torch."""

import csv
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.descriptions import INDEX_SCHEMA
from datamodules.indexing import IMAGE_ENDINGS, ending, index_pool, walk_files
from datamodules.store import ImageStore

KEY = "curation.leakage.tests"


def named_sets(tests: str | Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Name -> path as the yaml gives it; else the ends of their paths, as short as they differ.

    Raises ValueError for a path that is listed twice, or a name that is empty or has a slash.
    """
    if isinstance(tests, Mapping):
        for name in tests:
            if not name or "/" in name:
                raise ValueError(f"{KEY}: {name!r} cannot name a test set; give a name without a slash")
        return dict(tests)
    tests = [tests] if isinstance(tests, str) else tests
    parts = [PurePosixPath(path.replace(os.sep, "/").removeprefix("workspace:")).parts for path in tests]
    if len(set(parts)) < len(parts):
        raise ValueError(
            f"{KEY} lists {next(t for t, p in zip(tests, parts, strict=True) if parts.count(p) > 1)} twice"
        )
    named = {}
    for path, own in zip(tests, parts, strict=True):
        length = 1
        while sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        named["-".join(part.strip("/") for part in own[-length:]) or "test"] = path
    if len(named) < len(tests):
        raise ValueError(f"{KEY}: two paths end alike; name the sets, as in {{food: {tests[0]}}}")
    return named


def check_set(name: str, path: Path, key: str = KEY) -> None:
    """Raises FileNotFoundError or ValueError, naming the yaml key, where there is no image; reads no image."""
    where = _where(name, path, key)
    if not path.exists():
        raise FileNotFoundError(f"{where} does not exist; give a folder of images or of shards, or a CSV of paths")
    if _is_csv(path):
        _read_csv(path, where)
    elif path.is_dir() and not any(ending(file) in (*IMAGE_ENDINGS, "tar") for file in walk_files(path)):
        raise ValueError(
            f"{where} holds no image; give a folder of images or of shards, or a CSV with a column `path`, or take it "
            "out"
        )


def index_set(name: str, path: Path, key: str = KEY) -> tuple[pa.Table, Path]:
    """(index of the images, the folder that its places are in); the name is in the column `root`.

    Raises FileNotFoundError or ValueError naming the yaml key.
    """
    if not _is_csv(path):
        try:
            return index_pool(path, root=name), path
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"{key}: {str(error).removeprefix(f'{name}: ')}") from error
    files = sorted(set(_read_csv(path, _where(name, path, key))))
    sizes = [(path.parent / file).stat().st_size for file in files]
    columns = {
        "key": files, "source": ["real"] * len(files), "root": [name] * len(files), "shard": files,
        "offset": [0] * len(files), "size": sizes, "ext": [ending(file) for file in files],
    }  # fmt: skip
    missing = {column: [None] * len(files) for column in INDEX_SCHEMA.names if column not in columns}
    return pa.table({**columns, **missing}, schema=INDEX_SCHEMA), path.parent


def checksums(name: str, path: Path) -> list[str]:
    """SHA-256 of every image of a set, as its files are now."""
    table, folder = index_set(name, path)
    store = ImageStore({name: folder})
    places = zip(*(table[column].to_pylist() for column in ("root", "shard", "offset", "size")), strict=True)
    return [hashlib.sha256(store.read(*place)).hexdigest() for place in places if place[-1] is not None]


def origins(index: pa.Table) -> pa.Array:
    """NAME/KEY of every test image of an index."""
    return pc.binary_join_element_wise(index["root"].combine_chunks(), index["key"].combine_chunks(), "/")


def identify_set(path: Path) -> str:
    """A checksum over the path, size and time of every image, or of every file of a folder."""
    digest = hashlib.sha256()
    files = _read_csv(path, str(path)) if _is_csv(path) else walk_files(path) if path.is_dir() else [path.name]
    folder = path if path.is_dir() else path.parent
    for file in files:
        stat = os.stat(folder / file) if (folder / file).exists() else os.lstat(folder / file)
        digest.update(f"{file} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv" and path.is_file()


def _where(name: str, path: Path, key: str) -> str:
    return f"{key}: {path}" + ("" if name == path.name else f" ('{name}')")


def _read_csv(path: Path, where: str) -> list[str]:
    """The paths of a CSV, relative to its folder. Raises ValueError or FileNotFoundError that begins with `where`."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if "path" not in (rows.fieldnames or []):
                raise ValueError(f"{where} has no column path; it has {', '.join(rows.fieldnames or []) or 'none'}")
            paths = [row["path"] for row in rows]
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is no UTF-8 text ({error}); save it as a UTF-8 CSV") from error
    if not paths:
        raise ValueError(f"{where} names no image; take it out")
    empty = [line for line, file in enumerate(paths, start=2) if not file]
    if empty:
        raise ValueError(f"{where} line {empty[0]} has no path")
    gone = [file for file in paths if not (path.parent / file).is_file()]
    if gone:
        raise FileNotFoundError(
            f"{where} names {len(gone)} files that are not there, such as {path.parent / gone[0]}; paths are relative "
            "to the CSV's folder"
        )
    return paths
