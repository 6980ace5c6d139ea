"""Images with a class for each pixel, or with boxes: what segmentation and detection are judged on."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from datamodules.labelled import ImageFiles

IGNORED = 255  # class of pixels that count nowhere


@dataclass(frozen=True)
class MaskedImages:
    """source: image files by row; masks: a PNG of each, uint8 classes by pixel (IGNORED counts nowhere); classes."""

    source: ImageFiles
    masks: list[Path]
    classes: list[str]

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def paths(self) -> list[Path]:
        """The image files."""
        return self.source.paths

    @cached_property
    def source_fingerprint(self) -> str:
        """Identity of the images alone."""
        return self.source.fingerprint()

    def fingerprint(self) -> str:
        """Identity of images, masks and classes."""
        digest = hashlib.sha256(self.source_fingerprint.encode())
        digest.update(ImageFiles(self.masks).fingerprint().encode())
        digest.update("\n".join(self.classes).encode())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class BoxedImages:
    """source: image files by row; boxes: float32 [K, 5] each, x1, y1, x2, y2 in pixels and the place in classes."""

    source: ImageFiles
    boxes: list[np.ndarray]
    classes: list[str]

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def paths(self) -> list[Path]:
        """The image files."""
        return self.source.paths

    @cached_property
    def source_fingerprint(self) -> str:
        """Identity of the images alone."""
        return self.source.fingerprint()

    def fingerprint(self) -> str:
        """Identity of images, boxes and classes."""
        digest = hashlib.sha256(self.source_fingerprint.encode())
        digest.update("\n".join(self.classes).encode())
        for boxes in self.boxes:
            digest.update(f"{len(boxes)}\n".encode() + np.ascontiguousarray(boxes, np.float32).tobytes())
        return digest.hexdigest()[:16]
