"""FAST with T-MARS' settings: the text detector that the paper names."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image

from curation.known_weights import find_file, known
from curation.text.detector import Polygons, TextDetector
from curation.text.fast_postprocess import find_words
from datamodules.files import sha256_file

if TYPE_CHECKING:
    from curation.text.fast_finder import FASTFinder

PUBLISHED = "fast_tiny_tt_512_finetune_ic17mlt.pth"


@dataclass(frozen=True)
class FAST(TextDetector):
    """FAST-tiny, fine-tuned on Total-Text, on the device in batches: the paper's detector with T-MARS' settings.

    An image is padded to a square with white, centred, and resized (bicubic). The defaults are T-MARS'.

    Args:
        model: The published checkpoint, looked for here and in torch.hub's checkpoints folder; or the path of another
            one of the same network.
        square_px: Side of the square that the network sees, a multiple of 32.
        min_score: Least mean probability of a region, in (0, 1).
        min_area: Least size of a region in pixels of the square.
        stand_in: Marks weights that only take the published ones' place; the report says so.
    """

    kind: ClassVar[str] = "fast"
    # No name of RapidOCRDetector's settings: a yaml that only changes the class would take over that one's value.
    model: str = PUBLISHED
    square_px: int = 512
    min_score: float = 0.85
    min_area: int = 200
    stand_in: bool = False

    def __post_init__(self) -> None:
        if self.square_px < 64 or self.square_px % 32:
            raise ValueError(
                f"curation.text.detector.square_px must be a multiple of 32 from 64 on for FAST, got {self.square_px}"
            )
        if not 0 < self.min_score < 1:
            raise ValueError(f"curation.text.detector.min_score must be in (0, 1), got {self.min_score}")
        if self.min_area < 0:
            raise ValueError(f"curation.text.detector.min_area must not be negative, got {self.min_area}")

    @property
    def path(self) -> Path:
        """The checkpoint's file. FileNotFoundError with the address where there is none; nothing is downloaded."""
        found, entry = find_file(self.model), known(PUBLISHED)
        if found is not None:
            return found
        assert entry is not None
        raise FileNotFoundError(
            f"curation.text.detector.model: no file {self.model}, here or in torch's cache; download {entry.source} "
            "to one of these places or name its path, set the detector to RapidOCRDetector (nothing to download), or "
            "set `curation.text: null` to leave written words out"
        )

    @property
    def identity(self) -> dict[str, Any]:
        """Name and checksum of the checkpoint, without loading it."""
        path = self.path
        mark = {"stand_in": True} if self.stand_in else {}
        return {"name": f"FAST-tiny {path.name}", "sha256": sha256_file(path), **mark}

    def prepare(self, rgb: np.ndarray) -> dict[str, Any]:
        """square: uint8 [3, square_px, square_px]; size: int64 (height, width) of the image."""
        height, width = rgb.shape[:2]
        longest, left, top = _square(height, width)
        padded = Image.new("RGB", (longest, longest), (255, 255, 255))
        padded.paste(Image.fromarray(rgb), (left, top))
        square = padded.resize((self.square_px, self.square_px), Image.Resampling.BICUBIC)
        return {"square": np.asarray(square).transpose(2, 0, 1).copy(), "size": np.array([height, width])}

    def finder(self) -> "FASTFinder":
        """The network, fused, on the CPU. ValueError where the checkpoint is another's."""
        from curation.text.fast_finder import FASTFinder

        return FASTFinder(self.path, self.polygons)

    def polygons(self, logits: np.ndarray, height: int, width: int) -> Polygons:
        """Polygons in pixels of an image of that size, from the network's text logits of its square."""
        words = find_words(logits, self.min_score, self.min_area)
        found = [to_image(word.polygon, height, width, self.square_px) for word in words]
        return [polygon for polygon in found if len(polygon)]

    def detect(self, rgb: np.ndarray) -> Polygons:
        """Polygons int32 [K, 2] in pixels of the image."""
        import torch

        batch = {name: torch.from_numpy(value)[None] for name, value in self.prepare(rgb).items()}
        return _loaded(self)(batch)[0]


@functools.lru_cache(maxsize=1)
def _loaded(detector: FAST) -> Callable[[dict[str, Any]], list[Polygons]]:
    return detector.finder()


def _square(height: int, width: int) -> tuple[int, int, int]:
    """Side of the square around an image, and the white to its left and above it."""
    longest = max(height, width)
    return longest, (longest - width) // 2, (longest - height) // 2


def to_image(polygon: np.ndarray, height: int, width: int, square_px: int) -> np.ndarray:
    """A polygon of the square int [K, 2] in pixels of the image, int32, clipped to it; empty if all in the white.

    x = x' * longest side / square_px - white to the left, and so for y; points that fall together are one.
    """
    longest, left, top = _square(height, width)
    points = np.rint(polygon * (longest / square_px) - (left, top))
    low, high = points.min(axis=0), points.max(axis=0)
    if (high < 0).any() or (low > (width - 1, height - 1)).any():
        return np.empty((0, 2), np.int32)
    points = np.clip(points, 0, (width - 1, height - 1)).astype(np.int32)
    fresh = (points != np.roll(points, 1, axis=0)).any(axis=1)
    return points[fresh] if fresh.any() else points[:1]
