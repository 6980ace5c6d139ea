"""Many labelled images without files: of one colour each."""

import numpy as np

from datamodules.image_source import ImageSource
from datamodules.labelled import LabelledImages


class Shades(ImageSource):
    """Image n is of the colour (n % 256, n // 256, 7). bad: a row that cannot be read."""

    def __init__(self, count: int, bad: int | None = None, name: str = "shades") -> None:
        self.count, self.bad, self.name = count, bad, name
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.count

    def read(self, row: int) -> np.ndarray:
        if row == self.bad:
            raise OSError("the disk is on fire")
        self.reads.append(row)
        return np.broadcast_to(np.array([row % 256, row // 256, 7], np.uint8), (8, 8, 3))

    def describe(self, row: int) -> str:
        return f"{self.name} {row}"

    def fingerprint(self) -> str:
        return f"{self.name} {self.count}"


def shades(count: int, bad: int | None = None, classes: int = 2) -> LabelledImages:
    return LabelledImages(Shades(count, bad), np.arange(count) % classes, [f"class {n}" for n in range(classes)])


def expected(count: int) -> np.ndarray:
    """The colours, float32 [count, 3]."""
    rows = np.arange(count)
    return np.stack([rows % 256, rows // 256, np.full(count, 7)], axis=1).astype(np.float32)
