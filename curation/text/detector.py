"""The seam of the text detectors."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

# Polygons int32 [K, 2] of one image, (x, y) in its pixels; an empty list where no word is.
Polygons = list[np.ndarray]


class TextDetector(ABC):
    """Finds the regions of an image that hold written words; the yaml names one by `class_path`.

    A subclass is a frozen dataclass of plain settings, for it travels to loader workers. Its work has two halves:
    `prepare`, one image in a worker, and what `finder` loads, a batch on the device. A detector that runs on the CPU
    does all in the first.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Name, version and checksum: what decides the result beside the settings. Raises where weights are missing."""

    @abstractmethod
    def prepare(self, rgb: np.ndarray) -> dict[str, Any]:
        """What `finder` needs of an image uint8 [H, W, 3].

        Arrays, which must have one shape for all images, are stacked to a batch; what is named *_list stays a list.
        """

    @abstractmethod
    def finder(self) -> Callable[[dict[str, Any]], list[Polygons]]:
        """The loaded second half, batch of `prepare` -> polygons of each image; a module is moved to the device."""

    @abstractmethod
    def detect(self, rgb: np.ndarray) -> Polygons:
        """Both halves for one image, on the CPU."""
