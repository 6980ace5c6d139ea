"""Rows of the index as decoded images."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from datamodules.decoding import ImageLimits, RefusedImage, decode_rgb
from datamodules.store import ImageStore


class ImageReader:
    """Reads and decodes rows of an index. Holds arrow columns, no Python object per row; goes to loader workers."""

    def __init__(self, index: pa.Table, roots: Mapping[str, Path], limits: ImageLimits) -> None:
        self.columns = {
            name: index[name].combine_chunks() for name in ("root", "shard", "offset", "size", "reason", "status")
        }
        self.store = ImageStore(roots)
        self.limits = limits

    def data(self, row: int) -> bytes:
        """The stored bytes of a row. Raises RefusedImage for a row without image (a failed download)."""
        values = {name: column[row].as_py() for name, column in self.columns.items()}
        if values["size"] is None:
            raise RefusedImage(
                values["status"] or "missing", values["reason"] or "the pool's table has no image for it"
            )
        return self.store.read(values["root"], values["shard"], values["offset"], values["size"])

    def rgb(self, row: int) -> np.ndarray:
        """uint8 [H, W, 3]. Raises RefusedImage."""
        return decode_rgb(self.data(row), self.limits)
