"""Images re-encoded once to a short side: less to read and to decode in every epoch of a training.

The views are other pixels than those of the originals, so strict reproductions train without it.
"""

import hashlib
import io
import os
import platform
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from PIL import Image
from PIL import __version__ as pillow_version
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datamodules.decoding import ImageLimits, RefusedImage, decode_rgb
from datamodules.files import atomic, fingerprint, read_json, write_json
from datamodules.image_source import ImageSource
from datamodules.loaders import as_it_is
from datamodules.rows import ImageRows
from datamodules.store import StoreError

SHARD_ROWS = 1000
RECORD = "short-side.json"
VERSION = 1  # of the pixels and the layout; another one makes the shards anew
BLOCK = 512  # of a tar


@dataclass(frozen=True)
class Shrinking:
    """What images become.

    Args:
        short_side: in pixels; smaller images stay as they are.
        quality: of the JPEG, 1 to 100.
    """

    short_side: int
    quality: int = 90


class ShrunkRows(ImageRows):
    """The re-encoded images; another set of images than the originals, for a checkpoint that goes on."""

    def __init__(self, table: pa.Table, folder: Path, identity: str) -> None:
        super().__init__(table, {"short-side": folder})
        self.identity = identity

    def fingerprint(self) -> str:
        """Identity of the originals, the short side and the quality."""
        return self.identity


def shrink_image(image: bytes | np.ndarray, shrinking: Shrinking, limits: ImageLimits) -> tuple[bytes, bool]:
    """An encoded image with the short side, and whether it is a new one.

    Smaller ones and damaged ones are taken as they are (the training replaces these and says why); small pixels
    without a file become PNG. Upright, RGB, resized with an antialiased cubic filter.
    """
    if isinstance(image, bytes):
        try:
            pixels = decode_rgb(image, limits)
        except RefusedImage:
            return image, False
        if min(pixels.shape[:2]) <= shrinking.short_side:
            return image, False
    else:
        pixels = image
    picture, buffer = Image.fromarray(pixels), io.BytesIO()
    short = min(picture.size)
    if short <= shrinking.short_side:
        picture.save(buffer, "PNG")
        return buffer.getvalue(), False
    width, height = (max(1, round(side * shrinking.short_side / short)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    picture.save(buffer, "JPEG", quality=shrinking.quality)
    return buffer.getvalue(), True


def shrunk(
    source: ImageSource, name: str, parent: Path, shrinking: Shrinking, limits: ImageLimits, workers: int = 0
) -> ShrunkRows:
    """The images of a source with the short side, from a folder below `parent` where they are kept.

    Whole shards are written in several processes; those that are there are kept, so a run that was killed goes on.
    name: of the source, for the record.
    """
    originals = _identity(source)
    identity = fingerprint([originals, shrinking.short_side, shrinking.quality, SHARD_ROWS, VERSION])
    folder = parent / f"short-side-{shrinking.short_side}-{identity[:8]}"
    shards = _Shards(source, folder, shrinking, limits)
    if read_json(folder / RECORD) is None:
        _write(shards, name, originals, workers)
    places = [np.load(shards.places(number)) for number in range(len(shards))]
    offsets, sizes = np.concatenate([place[:, :2] for place in places]).T
    numbers = np.repeat(np.arange(len(shards)), [len(place) for place in places])
    names = pa.array([shards.tar(number).name for number in range(len(shards))])
    count, synthetic = len(source), source.synthetic()
    columns = {
        "key": source.keys(),
        "root": pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), ["short-side"]).cast(pa.string()),
        "shard": names.take(pa.array(numbers)),
        "offset": pa.array(offsets),
        "size": pa.array(sizes),
        "source": pa.array(np.where(synthetic, "synthetic", "real")),
    }
    return ShrunkRows(pa.table(columns), folder, identity)


class _Shards(Dataset[tuple[int, ...]]):
    """Item n writes shard n: (images, re-encoded ones, bytes before, bytes after, images that could not be read)."""

    def __init__(self, source: ImageSource, folder: Path, shrinking: Shrinking, limits: ImageLimits) -> None:
        self.source, self.folder, self.shrinking, self.limits = source, folder, shrinking, limits

    def __len__(self) -> int:
        return -(-len(self.source) // SHARD_ROWS)

    def tar(self, number: int) -> Path:
        """The images."""
        return self.folder / f"{number:05d}.tar"

    def places(self, number: int) -> Path:
        """int64 [n, 4]: offset, size, whether it is re-encoded, size before; written when the shard is whole."""
        return self.folder / f"{number:05d}.npy"

    def __getitem__(self, number: int) -> tuple[int, ...]:
        if not self.places(number).exists():
            with atomic(self.tar(number)) as temporary:
                places = self._write(temporary, number)
            with atomic(self.places(number)) as temporary, open(temporary, "wb") as file:
                np.save(file, places)
        places = np.load(self.places(number))
        sizes, new, before = places[:, 1], places[:, 2], places[:, 3]
        return len(places), int(new.sum()), int(before.sum()), int(sizes.sum()), int((sizes == 0).sum())

    def _write(self, path: Path, number: int) -> np.ndarray:
        first = number * SHARD_ROWS
        places = []
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in range(first, min(first + SHARD_ROWS, len(self.source))):
                try:
                    image = self.source.read(row)
                except (RefusedImage, StoreError, OSError):
                    image = b""  # refused as empty when it is its turn
                data, new = shrink_image(image, self.shrinking, self.limits) if len(image) else (b"", False)
                entry = tarfile.TarInfo(f"{row:09d}.{'jpg' if new else _ending(data)}")
                entry.size = len(data)
                places.append((tar.offset + BLOCK, len(data), new, len(image) if isinstance(image, bytes) else 0))
                tar.addfile(entry, io.BytesIO(data))
        return np.array(places, np.int64).reshape(-1, 4)


def _ending(data: bytes) -> str:
    for start, ending in (
        (b"\xff\xd8", "jpg"),
        (b"\x89PNG", "png"),
        (b"RIFF", "webp"),
        (b"GIF8", "gif"),
        (b"BM", "bmp"),
    ):
        if data.startswith(start):
            return ending
    return "tif" if data[:2] in (b"II", b"MM") else "img"


def _write(shards: _Shards, source: str, originals: str, workers: int) -> None:
    """Writes what is missing, several shards at a time, with a bar; then the record."""
    began, quiet = time.perf_counter(), not sys.stderr.isatty()
    workers = min(workers, len(shards), len(os.sched_getaffinity(0)))
    # A generator of its own: the process's random state stays as without this.
    loader = DataLoader(shards, batch_size=None, num_workers=workers, collate_fn=as_it_is, generator=torch.Generator())
    told = []
    with tqdm(
        total=len(shards.source), desc=f"short side {shards.shrinking.short_side}", unit="img", leave=False,
        mininterval=30.0 if quiet else 0.2, delay=30.0 if quiet else 0.3, dynamic_ncols=True,
    ) as bar:  # fmt: skip
        for counts in loader:
            told.append(counts)
            bar.update(counts[0])
    images, new, before, after, unread = np.sum(told, axis=0).tolist()
    record: dict[str, Any] = {
        "source": source, "fingerprint": originals, "short_side": shards.shrinking.short_side,
        "quality": shards.shrinking.quality, "images": images, "re_encoded": new, "kept": images - new - unread,
        "unread": unread, "bytes_before": before, "bytes": after, "seconds": round(time.perf_counter() - began, 1),
        "versions": {"pillow": pillow_version, "python": platform.python_version(), "layout": VERSION},
    }  # fmt: skip
    write_json(shards.folder / RECORD, record)
    unit, name = (1e9, "GB") if before >= 1e9 else (1e6, "MB")
    size = f"{before / unit:.1f} -> {after / unit:.1f} {name}"
    print(f"short side  {shards.folder}: {new} of {images} images re-encoded, {size}", flush=True)
    if unread:
        rank_zero_warn(
            f"data.short_side: {unread} of {images} images of {source} could not be read, and give place to others in "
            f"training; where they can be read again, remove {shards.folder} to have them"
        )


def _identity(source: ImageSource) -> str:
    """Of the images themselves, as far as can be told without reading them: a replaced file has another size."""
    digest = hashlib.sha256(source.fingerprint().encode())
    if isinstance(source, ImageRows):
        for column in ("offset", "size"):
            digest.update(source.table[column].combine_chunks().to_numpy(zero_copy_only=False).tobytes())
        for name in source.table["shard"].unique().to_pylist():
            digest.update(name.encode() + b"\n")
    return digest.hexdigest()[:16]
