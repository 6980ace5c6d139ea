"""Images to judge on, whatever is known of them: a class each, a class for each pixel, or boxes."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from datamodules.datasets.listing import read_listing
from datamodules.datasets.names import parse_name
from datamodules.decoding import Header, RefusedImage, read_header
from datamodules.dense import (
    IGNORED,
    BoxedImages,
    MaskedImages,
    clip_boxes,
    other_size,
    read_mask,
    turn_boxes,
)
from datamodules.labelled import ImageFiles, LabelledImages, read_labelled

READERS = 8  # files at a time
BEYOND = 1.0  # pixels outside its image from which a box is told of

Annotated = LabelledImages | MaskedImages | BoxedImages
Kind = Literal["labels", "masks", "boxes"]
T = TypeVar("T")
U = TypeVar("U")


def kind_of(images: Annotated) -> Kind:
    """What is known of each image."""
    if isinstance(images, LabelledImages):
        return "labels"
    return "masks" if isinstance(images, MaskedImages) else "boxes"


def read_annotated(source: str | Path, key: str, label_column: str = "label") -> Annotated:
    """The images of a text and what is known of them, as their files list it; no image is opened.

    key: the yaml key that errors name. Raises FileNotFoundError or ValueError.
    """
    name = parse_name(source, key)
    if name.kind in ("torchvision", "hf"):
        return read_labelled(source, key, label_column=label_column)
    listing = read_listing(source, key, label_column=label_column)
    files = ImageFiles(listing.files, listing.folder)
    if listing.masks is not None:
        return MaskedImages(files, [listing.folder / mask for mask in listing.masks], listing.classes)
    if listing.boxes is not None:
        return BoxedImages(files, listing.boxes, listing.classes, listing.crowds, listing.sizes)
    return read_labelled(source, key, label_column=label_column)


def sound(images: Annotated, key: str, tell: Callable[[str], None] = lambda line: None) -> Annotated:
    """The same images after a look at every file, with boxes in pixels of the upright images, and inside of them.

    Of labelled images, which are looked at when they are used, nothing is opened. tell: what a person should know.
    Raises ValueError that begins with the key and names the file: masks and images that cannot be read, masks of
    another size or with classes that there are not, boxes on an image of another size, no box at all.
    """
    try:
        if isinstance(images, MaskedImages):
            check_masks(images)
        elif isinstance(images, BoxedImages):
            return placed_boxes(images, tell)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None
    return images


class _Seen(NamedTuple):
    """Of one mask: its palette, empty for grey ones, and which of the 256 values it has, bool [256]."""

    palette: bytes
    values: np.ndarray


def check_masks(images: MaskedImages) -> None:
    """Raises ValueError naming the file for images and masks that do not fit each other or the classes."""
    palette, first, values = b"", Path(), np.zeros(256, bool)
    pairs = list(zip(images.paths, images.masks, strict=True))
    looks = _each(lambda pair: _look(*pair, len(images.classes)), pairs)
    for (_, path), seen in zip(pairs, looks, strict=True):
        values |= seen.values
        shared = min(len(palette), len(seen.palette))
        if palette[:shared] != seen.palette[:shared]:
            raise ValueError(
                f"the masks {first} and {path} have different palettes, so that places in them are no numbers of "
                "classes; save masks with one palette for all, or grey ones whose pixels are numbers of classes"
            )
        if len(seen.palette) > len(palette):
            palette, first = seen.palette, path
    found = np.flatnonzero(values[:IGNORED])
    if len(found) < 2:
        said = f"class {found[0]}" if len(found) else "no class"
        also = f" beside {IGNORED}, which counts nowhere" if values[IGNORED] else ""
        raise ValueError(
            f"all masks, such as {images.masks[0]}, hold {said}{also}; their pixels are to be numbers of classes, from "
            f"0 to {len(images.classes) - 1}"
        )


def _look(image: Path, path: Path, classes: int) -> _Seen:
    header = _header(image)
    mask = read_mask(path, classes)
    if mask.shape not in (header.upright, (header.height, header.width)):
        raise other_size(path, mask.shape, image, header.upright)
    with Image.open(path) as opened:
        palette = bytes(opened.getpalette() or b"") if opened.mode == "P" else b""
    values = np.bincount(mask.ravel(), minlength=256) > 0
    used = 3 * (1 + int(np.flatnonzero(values).max()))  # programs fill the rest as they like
    return _Seen(palette[:used], values)


def placed_boxes(images: BoxedImages, tell: Callable[[str], None]) -> BoxedImages:
    """The boxes in pixels of the upright images, and inside of them. Raises ValueError naming the file."""
    paths, sizes = images.paths, images.sizes or [None] * len(images)
    flat, told, boxes, crowds = 0, [0, 0], [], []
    for row, header in enumerate(_each(_header, paths)):
        turned = _is_turned(sizes[row], header, paths[row])
        given = turn_boxes(images.boxes[row], header) if turned else images.boxes[row]
        written = len(given)
        given = given[(given[:, 2] > given[:, 0]) & (given[:, 3] > given[:, 1])]
        flat += written - len(given)
        inside = clip_boxes(given, header.upright)
        boxes.append(inside)
        told[0] += int(_beyond(given, header.upright).sum())
        told[1] += len(given) - len(inside)
        if images.crowds is not None:
            regions = images.crowds[row]
            crowds.append(clip_boxes(turn_boxes(regions, header) if turned else regions, header.upright))
    total = sum(map(len, images.boxes))
    if flat:
        tell(f"{flat} of {total} boxes have no area and are left out")
    if told[0]:
        gone = f", {told[1]} of them wholly, which are left out" if told[1] else ""
        tell(f"{told[0]} of {total} boxes reach beyond their image and are cut at its edge{gone}")
    if not any(map(len, boxes)):
        raise ValueError(f"none of {len(images):,} images, such as {paths[0]}, has a box; give images of which some do")
    return replace(images, boxes=boxes, crowds=crowds if images.crowds is not None else None, sizes=None)


def _beyond(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bool [K]: whether a box reaches out of an image by more than its rounding."""
    height, width = size
    return np.asarray(
        (boxes[:, :2].min(axis=1) < -BEYOND) | (boxes[:, 2] > width + BEYOND) | (boxes[:, 3] > height + BEYOND)
    )


def _is_turned(size: tuple[int, int] | None, header: Header, path: Path) -> bool:
    """Whether boxes count pixels as they are stored; size: of the image as the annotator saw it, if it is told."""
    if size is None or size == header.upright:
        return False
    if size == (header.height, header.width):
        return True
    raise ValueError(
        f"the image {path} is {header.upright[1]} x {header.upright[0]} pixels, but its boxes are of one of "
        f"{size[1]} x {size[0]}"
    )


def _header(path: Path) -> Header:
    try:
        return read_header(path)
    except (RefusedImage, OSError) as error:
        said = getattr(error, "strerror", None) or error
        raise ValueError(f"the image {path} cannot be used ({said}); repair or remove it") from None


def _each(look: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """What is found of each, in their order; reading files and inflating them leaves other threads their turn."""
    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(look, items)
