"""What a training asks of a data set, whatever it is stored in: images by row."""

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from datamodules.decoding import ImageLimits, decode_rgb

SAMPLED = 64  # images that the identity of a data set without keys is taken of


class ImageSource(ABC):
    """Images by row. Workers read it: it can be pickled, and read after a fork."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def read(self, row: int) -> bytes | np.ndarray:
        """An encoded image, or uint8 [H, W, 3]. Raises RefusedImage, StoreError or OSError."""

    @abstractmethod
    def describe(self, row: int) -> str:
        """Where an image lies, for a person to find it."""

    def pixels(self, row: int, limits: ImageLimits) -> np.ndarray:
        """uint8 [H, W, 3]. Raises RefusedImage, StoreError or OSError."""
        image = self.read(row)
        return decode_rgb(image, limits) if isinstance(image, bytes) else image

    def keys(self) -> pa.ChunkedArray:
        """A name for each row, string [N]."""
        return pa.chunked_array([pa.array([f"{row:08d}" for row in range(len(self))], pa.string())])

    def synthetic(self) -> np.ndarray:
        """Bool [N]: whether an image is generated; the rest is real, or unknown."""
        return np.zeros(len(self), bool)

    def kinds(self) -> np.ndarray:
        """int32 [N]: rows of one number may stand in for one another: of one data set, all generated or none."""
        return self.synthetic().astype(np.int32)

    def fingerprint(self) -> str:
        """Identity of the set of images: here a hash of their number and of some of them."""
        digest = hashlib.sha256(str(len(self)).encode())
        for row in np.unique(np.linspace(0, len(self) - 1, min(SAMPLED, len(self))).astype(int)):
            try:
                digest.update(np.asarray(self.read(int(row))).tobytes())
            except (ValueError, RuntimeError, OSError) as error:  # the training replaces it
                digest.update(type(error).__name__.encode())
        return digest.hexdigest()[:16]


def encoded_image(source: ImageSource, row: int) -> bytes:
    """The encoded image; of a source of pixels those of a BMP file, which loses nothing and is the same everywhere."""
    image = source.read(row)
    if isinstance(image, bytes):
        return image
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "BMP")
    return buffer.getvalue()


class JoinedSources(ImageSource):
    """Several data sets, one after another; flags: whether each is generated, None as its rows say."""

    def __init__(self, parts: Sequence[ImageSource], flags: Sequence[bool | None] | None = None) -> None:
        self.parts, self.flags = list(parts), list(flags or [None] * len(parts))
        self.ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def read(self, row: int) -> bytes | np.ndarray:
        """Of the part that holds the row."""
        part, row = self._place(row)
        return part.read(row)

    def describe(self, row: int) -> str:
        """Of the part that holds the row."""
        part, row = self._place(row)
        return part.describe(row)

    def keys(self) -> pa.ChunkedArray:
        """The parts' keys, each behind the number of its part where there are several."""
        if len(self.parts) == 1:
            return self.parts[0].keys()
        import pyarrow.compute as pc

        named = [pc.binary_join_element_wise(str(n), part.keys(), "/") for n, part in enumerate(self.parts)]
        return pa.chunked_array([chunk for keys in named for chunk in keys.chunks], pa.string())

    def synthetic(self) -> np.ndarray:
        """Bool [N]: what the flags say, else the parts."""
        told = zip(self.parts, self.flags, strict=True)
        return np.concatenate([p.synthetic() if flag is None else np.full(len(p), flag) for p, flag in told])

    def fingerprint(self) -> str:
        """Of all parts in order; of one part its own."""
        prints = [part.fingerprint() for part in self.parts]
        return prints[0] if len(prints) == 1 else hashlib.sha256("\n".join(prints).encode()).hexdigest()[:16]

    def kinds(self) -> np.ndarray:
        """int32 [N]: of the part, and of what the flags or the rows say."""
        return (2 * self.part_of_rows() + self.synthetic()).astype(np.int32)

    def part_of_rows(self) -> np.ndarray:
        """int64 [N]: the number of the part that holds a row."""
        return np.repeat(np.arange(len(self.parts)), [len(part) for part in self.parts])

    def _place(self, row: int) -> tuple[ImageSource, int]:
        number = int(np.searchsorted(self.ends, row, side="right"))
        return self.parts[number], row - (int(self.ends[number - 1]) if number else 0)
