"""Tables that publish embeddings beside addresses: DataComp's parts, and clip-retrieval's embedding folders."""

import math
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from curation.searching.metadata import MetadataFile, metadata_files

# Bytes of a compressed array that are read at a time.
READ_BYTES = 64 * 1024**2


@dataclass(frozen=True)
class EmbeddedPart:
    """Embeddings of some images, and their metadata in the same order. field: the array in an .npz, None for .npy."""

    embeddings: Path
    metadata: MetadataFile
    field: str | None
    width: int

    def blocks(self) -> Iterator[np.ndarray]:
        """The embeddings [n, D] in pieces, as they are stored; a memory map where the file allows it."""
        if self.field is None:
            yield np.load(self.embeddings, mmap_mode="r")
            return
        # Read in a stream, so that memory stays bounded and zip's checksum is compared.
        try:
            with zipfile.ZipFile(self.embeddings) as archive, archive.open(f"{self.field}.npy") as file:
                shape, dtype = _header(file)
                step = max(1, READ_BYTES // (dtype.itemsize * shape[1]))
                for first in range(0, shape[0], step):
                    count = min(step, shape[0] - first)
                    data = file.read(count * shape[1] * dtype.itemsize)
                    yield np.frombuffer(data, dtype).reshape(count, shape[1])
                file.read(1)  # compares the checksum
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            raise ValueError(f"{self.embeddings} is damaged ({error}); get it anew and run again") from None


def embedded_parts(pairs: list[tuple[Path, Path]], field: str | None, key: str) -> list[EmbeddedPart]:
    """The parts of a table from (embeddings, metadata) files in order.

    Reads headers only. Raises ValueError naming `key`, the file and the remedy where a pair does not match.
    """
    parts = []
    for (embeddings, _), metadata in zip(pairs, metadata_files([path for _, path in pairs]), strict=True):
        rows, width = _shape(embeddings, field, key)
        if rows != metadata.rows:
            raise ValueError(
                f"{key}: {embeddings} has {rows} embeddings, but {metadata.path.name} {metadata.rows} rows; "
                "they are not of one part, or one is cut: get both anew"
            )
        parts.append(EmbeddedPart(embeddings, metadata, field, width))
    widths = sorted({part.width for part in parts})
    if len(widths) > 1:
        raise ValueError(f"{key}: the parts have embeddings of {' and '.join(map(str, widths))} dimensions")
    return parts


def _shape(path: Path, field: str | None, key: str) -> tuple[int, int]:
    try:
        if field is None:
            with open(path, "rb") as file:
                shape, dtype = _header(file)
                if path.stat().st_size - file.tell() < math.prod(shape) * dtype.itemsize:
                    raise EOFError("its end is missing")
        else:
            with zipfile.ZipFile(path) as archive:
                names = [name.removesuffix(".npy") for name in archive.namelist()]
                if field not in names:
                    raise ValueError(f"{key}: {path} has no array {field!r}, but {', '.join(names)}; name one of these")
                with archive.open(f"{field}.npy") as member:
                    shape, dtype = _header(member)
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(f"{key}: {path} cannot be read ({error}); it may be cut: get it anew") from None
    if len(shape) != 2 or dtype.kind != "f":
        raise ValueError(f"{key}: the array in {path} is {dtype} of shape {list(shape)}; embeddings are floats [n, D]")
    return shape[0], shape[1]


def _header(file: BinaryIO | Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array in C order, from the head of an .npy stream. Raises EOFError for another file."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except ValueError as error:
        raise EOFError(str(error)) from None
    if fortran and len(shape) > 1:
        raise EOFError("its array is in Fortran order")
    return shape, dtype


def find_tables(folder: Path, key: str) -> list[tuple[Path, Path]]:
    """(.npz, .parquet) of every part of a folder in DataComp's layout, by name; parts may lie in subfolders.

    DataComp (github.com/mlfoundations/datacomp, download_upstream.py --download_npz): STEM.npz with b32_img, b32_txt,
    l14_img, l14_txt and dedup beside STEM.parquet with uid, url, text, original_width, original_height,
    clip_b32_similarity_score, clip_l14_similarity_score, face_bboxes and sha256.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{key}: {folder} is no folder; give the one that holds the parts' .npz and .parquet")
    tables = sorted(folder.rglob("*.parquet"))
    missing = [path for path in tables if not path.with_suffix(".npz").exists()]
    alone = [path for path in sorted(folder.rglob("*.npz")) if not path.with_suffix(".parquet").exists()]
    if not tables and not alone:
        raise FileNotFoundError(f"{key}: {folder} holds no .parquet; every part is an .npz and a .parquet of one name")
    if missing or alone:
        first, lacks = (missing[0], ".npz") if missing else (alone[0], ".parquet")
        raise FileNotFoundError(
            f"{key}: {first} has no {lacks} beside it ({len(missing) + len(alone)} such parts); get the missing "
            "files (DataComp: --download_npz), or take the part out of the folder"
        )
    return [(path.with_suffix(".npz"), path) for path in tables]


def find_embedding_folder(folder: Path, kind: str, key: str) -> list[tuple[Path, Path]]:
    """(img_emb_3.npy, metadata_3.parquet), ... of a folder that `clip-retrieval inference` wrote. kind: img or text."""
    arrays = sorted((folder / f"{kind}_emb").glob("*.npy"))
    pairs = [(path, folder / "metadata" / f"metadata_{path.stem.rpartition('_')[2]}.parquet") for path in arrays]
    missing = [table for _, table in pairs if not table.exists()]
    if missing:
        raise FileNotFoundError(f"{key}: {missing[0]} is missing; every {kind}_emb_N.npy needs its metadata_N.parquet")
    return pairs
