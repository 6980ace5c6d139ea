"""Evaluation images to screen against: folders, shards, CSVs of paths or data sets by name, each under a name.

Imports no torch, but for torchvision's data sets.
"""

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.datasets.listing import read_csv_paths, read_listing
from datamodules.datasets.names import COCO, SetName, is_named, parse_name, told_as
from datamodules.decoding import RefusedImage
from datamodules.descriptions import INDEX_SCHEMA
from datamodules.files import atomic
from datamodules.image_source import ImageSource, encoded_image
from datamodules.indexing import IMAGE_ENDINGS, ending, index_pool, walk_files
from datamodules.store import ImageStore

KEY = "curation.leakage.tests"
HEADS = {b"\x89PNG": "png", b"RIFF": "webp", b"GIF8": "gif", b"BM": "bmp", b"II*\0": "tif", b"MM\0*": "tif"}


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
    parts = [_parts(path) for path in tests]
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


def _parts(path: str) -> tuple[str, ...]:
    """The parts of a path; of a named data set all of it and its name with its split."""
    if not is_named(path):
        coco = COCO.fullmatch(path)
        file = coco["file"] if coco is not None else path
        return PurePosixPath(file.replace(os.sep, "/").removeprefix("workspace:")).parts
    name = parse_name(path, KEY)
    short = name.kind if name.known else PurePosixPath(name.name).name
    split = name.options.get("split")
    return path.replace("/", "_"), f"{short}-{split}" if split else short


def check_set(name: str, path: str | Path, key: str = KEY) -> None:
    """Raises FileNotFoundError or ValueError, naming the yaml key, where there is no image; reads no image."""
    written = parse_name(path, key)
    if written.known or written.coco:
        read_listing(path, key)
        return
    if written.kind:
        with told_as(key):
            _opened(written)
        return
    path = Path(path)
    where = _where(name, path, key)
    if not path.exists():
        raise FileNotFoundError(
            f"{where} does not exist; give a folder of images or of shards, a CSV of paths, or a data set by name such "
            "as food-101:DIR?split=test"
        )
    if _is_csv(path):
        read_csv_paths(path, where)
    elif path.is_dir() and not any(ending(file) in (*IMAGE_ENDINGS, "tar") for file in walk_files(path)):
        raise ValueError(
            f"{where} holds no image; give a folder of images or of shards, or a CSV with a column `path`, or take it "
            "out"
        )


def index_set(name: str, path: str | Path, exported: Path, key: str = KEY) -> tuple[pa.Table, Path]:
    """(index of the images, the folder or shard that its places are in); the name is in the column `root`.

    exported: the folder that images which are no files of their own, those of torchvision and Hugging Face, are
    written to. Raises FileNotFoundError or ValueError naming the yaml key.
    """
    written = parse_name(path, key)
    if written.kind and not written.known:
        path = _export(written, exported, key)
    elif written.known or written.coco or _is_csv(Path(path)):
        files, folder = _files(name, path, key)
        return _index_files(name, files, folder), folder
    try:
        return index_pool(path, root=name), Path(path).absolute()
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{key}: {str(error).removeprefix(f'{name}: ')}") from error


def _index_files(name: str, files: list[str], folder: Path) -> pa.Table:
    sizes = [(folder / file).stat().st_size for file in files]
    columns = {
        "key": files, "source": ["real"] * len(files), "root": [name] * len(files), "shard": files,
        "offset": [0] * len(files), "size": sizes, "ext": [ending(file) for file in files],
    }  # fmt: skip
    missing = {column: [None] * len(files) for column in INDEX_SCHEMA.names if column not in columns}
    return pa.table({**columns, **missing}, schema=INDEX_SCHEMA)


def _files(name: str, path: str | Path, key: str) -> tuple[list[str], Path]:
    """(the files of a CSV or a known data set, sorted, each once; the folder that they are relative to)."""
    if _is_listed(path):
        listing = read_listing(path, key)
        return sorted(set(listing.files)), listing.folder.absolute()
    place = Path(path)
    return sorted(set(read_csv_paths(place, _where(name, place, key)))), place.parent.absolute()


def _opened(name: SetName) -> ImageSource:
    from datamodules.sources import open_source

    return open_source(name.text)


def _export(name: SetName, folder: Path, key: str) -> Path:
    """A tar shard of the images of a source without files; those that cannot be read are left out.

    Its name is that of the images, so that others, when the source changes, are written anew.
    """
    with told_as(key):
        source = _opened(name)
    path = folder / f"{source.fingerprint()}.tar"
    if path.exists():
        return path
    with atomic(path) as temporary, tarfile.open(temporary, "w") as tar:
        for row, data in _readable(source):
            member = tarfile.TarInfo(f"{row:08d}.{_ending_of(data)}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def _readable(source: ImageSource) -> Iterator[tuple[int, bytes]]:
    """(row, encoded image) of the images that can be read; a judging that meets another one ends and names it."""
    for row in range(len(source)):
        try:
            data = encoded_image(source, row)
        except (RefusedImage, OSError):
            continue
        yield row, data


def _ending_of(data: bytes) -> str:
    return next((kind for head, kind in HEADS.items() if data.startswith(head)), "jpg")


def checksums(name: str, path: str | Path) -> list[str]:
    """SHA-256 of every image of a set that can be read, as its files are now."""
    written = parse_name(path, KEY)
    if written.kind and not written.known:
        with told_as(KEY):
            source = _opened(written)
        return [hashlib.sha256(data).hexdigest() for _, data in _readable(source)]
    table, folder = index_set(name, path, Path())
    store = ImageStore({name: folder})
    places = zip(*(table[column].to_pylist() for column in ("root", "shard", "offset", "size")), strict=True)
    return [hashlib.sha256(store.read(*place)).hexdigest() for place in places if place[-1] is not None]


def origins(index: pa.Table) -> pa.Array:
    """NAME/KEY of every test image of an index."""
    return pc.binary_join_element_wise(index["root"].combine_chunks(), index["key"].combine_chunks(), "/")


def identify_set(path: str | Path) -> str:
    """A checksum over the path, size and time of every image, or of every file of a folder."""
    written = parse_name(path, KEY)
    if written.kind and not written.known:
        with told_as(KEY):
            return _opened(written).fingerprint()
    digest = hashlib.sha256()
    files, folder = _files_of(path)
    for file in files:
        stat = os.stat(folder / file) if (folder / file).exists() else os.lstat(folder / file)
        digest.update(f"{file} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _files_of(path: str | Path) -> tuple[list[str], Path]:
    if _is_listed(path):
        return _files("", path, KEY)
    path = Path(path)
    if _is_csv(path):
        return read_csv_paths(path, str(path)), path.parent
    return (list(walk_files(path)), path) if path.is_dir() else ([path.name], path.parent)


def _is_listed(path: str | Path) -> bool:
    """Whether it is a known set or a COCO file."""
    name = parse_name(path, KEY)
    return name.known or name.coco


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv" and path.is_file()


def _where(name: str, path: Path, key: str) -> str:
    return f"{key}: {path}" + ("" if name == path.name else f" ('{name}')")
