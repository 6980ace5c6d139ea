"""Labelled images: a folder of class folders, a CSV of paths and labels, or a data set by name."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from PIL import Image
from torch.utils.data import Dataset

from datamodules.datasets.known_set import Listing
from datamodules.datasets.listing import read_listing
from datamodules.datasets.names import parse_name, told_as
from datamodules.decoding import PILLOW_MAX_PIXELS, ImageLimits, RefusedImage
from datamodules.image_source import ImageSource
from datamodules.store import StoreError

# Evaluation sets are taken as they are: everything that can be decoded counts.
LIMITS = ImageLimits(max_pixels=PILLOW_MAX_PIXELS, min_side_px=1, max_aspect=1e6, flat_range=0)
HEAD_BYTES = 16_384  # of files that have as many: past a photo's tables, where its own pixels begin
LONGEST = 64  # times its short side, of an image that is resized whole


class ImageFiles(ImageSource):
    """Image files, one a row.

    Args:
        paths: of the files, relative to the folder where there is one.
        folder: what they lie in; where it lies does not matter to the fingerprint.
    """

    def __init__(self, paths: Sequence[str | Path], folder: Path | None = None) -> None:
        self.names, self.folder = [str(path) for path in paths], folder

    def __len__(self) -> int:
        return len(self.names)

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return [self._path(row) for row in range(len(self))]

    def read(self, row: int) -> bytes:
        """The file's bytes."""
        return self._path(row).read_bytes()

    def describe(self, row: int) -> str:
        """The file's path."""
        return str(self._path(row))

    def keys(self) -> pa.ChunkedArray:
        """The paths, relative to the folder."""
        return pa.chunked_array([pa.array(self.names, pa.string())])

    def fingerprint(self) -> str:
        """Of all names with the files' sizes and times of change: an edited file is noticed without reading it."""
        digest = hashlib.sha256()
        for row, name in enumerate(self.names):
            try:
                told = self._path(row).stat()
                digest.update(f"{name}\0{told.st_size}\0{told.st_mtime_ns}\n".encode())
            except OSError:  # who reads it will say so
                digest.update(f"{name}\n".encode())
        return digest.hexdigest()[:16]

    def _path(self, row: int) -> Path:
        return Path(self.names[row]) if self.folder is None else self.folder / self.names[row]


@dataclass(frozen=True)
class LabelledImages:
    """source: images by row; labels: int64 [N], places in classes; classes: names that have images."""

    source: ImageSource
    labels: np.ndarray
    classes: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def paths(self) -> list[Path]:
        """The image files; none where the images are stored in another way."""
        return self.source.paths if isinstance(self.source, ImageFiles) else []

    @cached_property
    def source_fingerprint(self) -> str:
        """Identity of the images alone, taken once: a look at a million files takes seconds."""
        return self.source.fingerprint()

    def fingerprint(self) -> str:
        """Identity of images, labels and classes."""
        digest = hashlib.sha256(self.source_fingerprint.encode())
        digest.update("\n".join(self.classes).encode() + np.ascontiguousarray(self.labels).tobytes())
        return digest.hexdigest()[:16]

    def aligned(self, classes: Sequence[str], name: str = "test") -> "LabelledImages":
        """The same images with labels counted in another set's classes. Raises ValueError for unknown classes."""
        unknown = sorted(set(self.classes) - set(classes))
        if unknown:
            raise ValueError(f"the {name} images have classes that the training images lack: {', '.join(unknown[:8])}")
        place = {label: number for number, label in enumerate(classes)}
        moved = np.array([place[label] for label in self.classes], np.int64)[self.labels]
        return LabelledImages(self.source, moved, list(classes))


def read_labelled(
    source: str | Path, key: str = "evaluation.datasets", path_column: str = "path", label_column: str = "label"
) -> LabelledImages:
    """Reads `folder/CLASS/.../image`, a CSV whose paths are relative to its folder, or a data set by name.

    key: the yaml key that errors name. Classes without an image are left out. Raises FileNotFoundError or ValueError.
    """
    name = parse_name(source, key)
    if name.kind in ("torchvision", "hf"):
        return _read_by_row(name.text, key)
    listing = read_listing(source, key, path_column, label_column)
    if listing.labels is None:
        kind = "masks" if listing.masks is not None else "boxes" if listing.boxes is not None else "no published labels"
        raise ValueError(
            f"{key}: {source} has {kind}, not a class for each image; its images can be screened against "
            "(curation.leakage.tests), not judged on here"
        )
    return LabelledImages(ImageFiles(listing.files, listing.folder), *_used(listing))


def _used(listing: Listing) -> tuple[np.ndarray, list[str]]:
    """(labels, classes) without the classes that no image has."""
    assert listing.labels is not None
    used, labels = np.unique(listing.labels, return_inverse=True)
    if len(used) == len(listing.classes):
        return listing.labels, listing.classes
    return labels.astype(np.int64), [listing.classes[place] for place in used]


def _read_by_row(text: str, key: str) -> LabelledImages:
    """A data set of torchvision or Hugging Face."""
    from datamodules.sources import open_labelled_source

    with told_as(key):
        source, labels, names = open_labelled_source(text)
    listing = Listing(Path(), [], labels, names)
    return LabelledImages(source, *_used(listing))


class Images(Protocol):
    """Images by row, whatever is known of them."""

    def __len__(self) -> int:
        """Their number."""

    @property
    def source(self) -> ImageSource:
        """The images."""

    @property
    def paths(self) -> list[Path]:
        """Their files; none where they are stored in another way."""


def shared_images(train: Images, test: Images) -> int:
    """How many of the test images are among the training images, by their size and their first bytes.

    Of files only those of equal size are opened; images of pixels are compared whole. Images that are not there count
    as none; who reads them will say so.
    """
    if train.paths and test.paths:
        return _shared_files(train.paths, test.paths)
    known = {_mark(train.source, row) for row in range(len(train))} - {None}
    return sum(_mark(test.source, row) in known for row in range(len(test)))


def _shared_files(train: list[Path], test: list[Path]) -> int:
    sizes: dict[int, list[Path]] = {}
    for path in train:
        sizes.setdefault(_size(path), []).append(path)
    heads: dict[int, set[bytes]] = {}
    count = 0
    for path in test:
        size = _size(path)
        if size >= 0 and size in sizes:
            if size not in heads:
                heads[size] = {_head(one) for one in sizes[size]}
            count += _head(path) in heads[size]
    return count


def _mark(source: ImageSource, row: int) -> tuple[int, bytes] | None:
    """(size, a hash of the first bytes of an encoded image or of all pixels) of an image that can be read."""
    try:
        path = Path(source.describe(row))
        if path.is_file():  # torchvision's classes know their files, which need no decoding
            return path.stat().st_size, hashlib.sha256(_head(path)).digest()
        image = source.read(row)
    except (RefusedImage, StoreError, OSError):
        return None
    if isinstance(image, bytes):
        return len(image), hashlib.sha256(image[:HEAD_BYTES]).digest()
    return image.size, hashlib.sha256(image.tobytes()).digest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(HEAD_BYTES)


class LabelledDataset(Dataset):
    """Images and labels with the usual test transform: short side to S * 256 / 224, centre crop S.

    Items are {"image": uint8 [3, S, S], "label": int64, "index": int64}. An image that cannot be decoded is an error
    that names the file: leaving it out would change the accuracy silently.
    """

    def __init__(self, images: LabelledImages, image_size: int, square: bool = False) -> None:
        self.images, self.image_size, self.square = images, image_size, square

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            pixels = self.images.source.pixels(index, LIMITS)
        except (RefusedImage, OSError) as error:
            name = self.images.source.describe(index)
            said = getattr(error, "strerror", None) or error
            raise ValueError(f"evaluation image {name} cannot be used ({said}); repair or remove it") from None
        image = centre_crop(pixels, self.image_size, self.square)
        return {"image": image, "label": int(self.images.labels[index]), "index": index}


def centre_crop(pixels: np.ndarray, image_size: int, square: bool = False) -> np.ndarray:
    """uint8 [3, S, S] of uint8 [H, W, 3]: short side to S * 256 / 224 (bilinear, antialiased), centre crop.

    Sizes and places are rounded as torchvision's Resize and CenterCrop do.

    square: resize to S x S, skewing, without a crop.
    """
    if square:
        image = Image.fromarray(pixels).resize((image_size, image_size), Image.Resampling.BILINEAR)
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
    # The ends of a strip go first, as the crop keeps nothing of them and the whole, resized, might fill the memory.
    down, right = (max(0, (side - LONGEST * min(pixels.shape[:2])) // 2) for side in pixels.shape[:2])
    image = Image.fromarray(pixels[down : len(pixels) - down, right : pixels.shape[1] - right])
    short = round(image_size * 256 / 224)
    width, height = (int(short * side / min(image.size)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - image_size) / 2), round((height - image_size) / 2)
    image = image.crop((left, top, left + image_size, top + image_size))
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
