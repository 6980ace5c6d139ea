"""Images with a class for each pixel, or with boxes: what segmentation and detection are judged on."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.decoding import BOMB, DAMAGE, Header, RefusedImage, read_header
from datamodules.labelled import LIMITS, ImageFiles

IGNORED = 255  # class of pixels that count nowhere


@dataclass(frozen=True)
class _ImageFiles:
    """source: image files by row."""

    source: ImageFiles

    @property
    def paths(self) -> list[Path]:
        """The image files."""
        return self.source.paths

    @cached_property
    def source_fingerprint(self) -> str:
        """Identity of the images alone."""
        return self.source.fingerprint()


@dataclass(frozen=True)
class MaskedImages(_ImageFiles):
    """source: image files by row; masks: a PNG of each, uint8 classes by pixel (IGNORED counts nowhere); classes."""

    masks: list[Path]
    classes: list[str]

    def __len__(self) -> int:
        return len(self.masks)

    def fingerprint(self) -> str:
        """Identity of images, masks and classes."""
        digest = hashlib.sha256(self.source_fingerprint.encode())
        folder = self.source.folder
        names = self.masks if folder is None else [os.path.relpath(mask, folder) for mask in self.masks]
        digest.update(ImageFiles(names, folder).fingerprint().encode())
        digest.update("\n".join(self.classes).encode())
        return digest.hexdigest()[:16]

    def aligned(self, classes: Sequence[str], name: str = "test") -> "MaskedImages":
        """The same images, whose masks count another set's classes. Raises ValueError where they do not."""
        if list(classes) == self.classes:
            return self
        differs = [(one, other) for one, other in zip(self.classes, classes, strict=False) if one != other]
        first = f"{differs[0][0]} stands where the others have {differs[0][1]}" if differs else "the rest is equal"
        raise ValueError(
            f"the {name} images have {len(self.classes)} classes, the training images {len(classes)} ({first}); masks "
            "hold their numbers, so both need the same list"
        )

    def mask(self, row: int, size: tuple[int, int]) -> np.ndarray:
        """Classes of an image's pixels, uint8 [H, W]; size: height and width of the upright image.

        A mask that was drawn on the pixels as they are stored is turned as EXIF turns the image.
        Raises ValueError naming the file for a mask that is damaged, of another size, or with other classes.
        """
        mask = read_mask(self.masks[row], len(self.classes))
        if mask.shape != size:
            image = Path(self.source.describe(row))
            header = read_header(image)
            if mask.shape != (header.height, header.width):
                raise other_size(self.masks[row], mask.shape, image, size)
            mask = header.turn(mask)
        return np.require(mask, requirements=["C", "W"])


@dataclass(frozen=True)
class BoxedImages(_ImageFiles):
    """Image files with boxes.

    source: image files by row. boxes: float32 [K, 5] each, x1, y1, x2, y2 in pixels of the upright image and the place
    in classes. crowds: the same of regions where nobody counted; None where there are none. They are not trained on,
    and what is found in them is neither right nor wrong (COCO's iscrowd). sizes: height and width of the images as the
    annotator saw them, until boxes are placed (`annotated.sound`).
    """

    boxes: list[np.ndarray]
    classes: list[str]
    crowds: list[np.ndarray] | None = None
    sizes: list[tuple[int, int] | None] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def fingerprint(self) -> str:
        """Identity of images, boxes and classes."""
        digest = hashlib.sha256(self.source_fingerprint.encode())
        digest.update("\n".join(self.classes).encode())
        for boxes in [*self.boxes, *(self.crowds or [])]:
            digest.update(f"{len(boxes)}\n".encode() + np.ascontiguousarray(boxes, np.float32).tobytes())
        return digest.hexdigest()[:16]

    def aligned(self, classes: Sequence[str], name: str = "test") -> "BoxedImages":
        """The same images with boxes counted in another set's classes. Raises ValueError for unknown classes."""
        if list(classes) == self.classes:
            return self
        unknown = sorted(set(self.classes) - set(classes))
        if unknown:
            raise ValueError(f"the {name} images have classes that the training images lack: {', '.join(unknown[:8])}")
        place = {label: number for number, label in enumerate(classes)}
        moved = np.array([place[label] for label in self.classes], np.float32)
        boxes = [_counted(boxes, moved) for boxes in self.boxes]
        crowds = None if self.crowds is None else [_counted(boxes, moved) for boxes in self.crowds]
        return replace(self, boxes=boxes, classes=list(classes), crowds=crowds)


def _counted(boxes: np.ndarray, moved: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :4], moved[boxes[:, 4].astype(int)][:, None]], axis=1)


DenseImages = MaskedImages | BoxedImages


def read_pixels(images: DenseImages, row: int) -> np.ndarray:
    """An upright image, uint8 [H, W, 3]. Raises ValueError naming the file where it cannot be read."""
    try:
        return images.source.pixels(row, LIMITS)
    except (RefusedImage, OSError) as error:
        said = getattr(error, "strerror", None) or error
        raise ValueError(
            f"evaluation image {images.source.describe(row)} cannot be used ({said}); repair or remove it"
        ) from None


def read_mask(path: Path, classes: int) -> np.ndarray:
    """Classes by pixel, uint8 [H, W], of a mask as it is stored; of one with a palette the places in it.

    Raises ValueError naming the file.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            check_mask_kind(path, image)
            mask = np.asarray(image)
    except FileNotFoundError:
        raise ValueError(f"the mask {path} does not exist") from None
    except (*DAMAGE, *BOMB) as error:
        if isinstance(error, NotAMask):
            raise
        raise ValueError(f"the mask {path} cannot be read as a PNG ({error}); repair it") from None
    beyond = (mask >= classes) & (mask != IGNORED)
    if beyond.any():
        row, column = np.argwhere(beyond)[0]
        raise ValueError(
            f"the mask {path} has class {mask[row, column]} at row {row}, column {column}, but the {classes} classes "
            f"are numbered from 0 to {classes - 1} ({IGNORED} counts nowhere)"
        )
    return mask


class NotAMask(ValueError):
    """A file whose pixels are no numbers of classes."""


def check_mask_kind(path: Path, image: Image.Image) -> None:
    """Raises NotAMask for a file that is opened and is not of one byte a pixel, a class."""
    tiles = getattr(image, "tile", None)
    stored = str(tiles[0][3]) if tiles else image.mode  # such as L;4, which Pillow would scale to 8 bits
    if image.mode in ("L", "P") and stored in (image.mode, "P;1", "P;2", "P;4"):
        return
    kinds = {
        "RGB": "colours", "RGBA": "colours and transparency", "LA": "transparency", "I;16B": "16 bits a pixel",
        "1": "1 bit a pixel", "L;2": "2 bits a pixel", "L;4": "4 bits a pixel",
    }  # fmt: skip
    kind = kinds.get(stored, f"pixels of the kind {stored}")
    raise NotAMask(
        f"the mask {path} has {kind}; a mask is a PNG of one channel of 8 bits, whose pixels are numbers of classes "
        f"from 0 ({IGNORED} counts nowhere)"
    )


def other_size(path: Path, shape: tuple[int, ...], image: Path, size: tuple[int, int]) -> ValueError:
    """What to raise for a mask that does not fit its image."""
    return ValueError(
        f"the mask {path} is {shape[1]} x {shape[0]} pixels, its image {image} {size[1]} x {size[0]}; both need one "
        "size"
    )


def clip_boxes(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes [K, 5] inside an image of a height and width; those of which nothing is inside are left out."""
    height, width = size
    inside = boxes.copy()
    inside[:, 0:4:2] = boxes[:, 0:4:2].clip(0, width)
    inside[:, 1:4:2] = boxes[:, 1:4:2].clip(0, height)
    return inside[(inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])]


def turn_boxes(boxes: np.ndarray, header: Header) -> np.ndarray:
    """Boxes [K, 5] in pixels as they are stored, in those of the upright image."""
    height, width = header.upright
    turned = boxes[:, [1, 0, 3, 2, 4]] if header.turned else boxes.copy()
    if header.mirrored:
        turned[:, [0, 2]] = width - turned[:, [2, 0]]
    if header.upside_down:
        turned[:, [1, 3]] = height - turned[:, [3, 1]]
    return turned
