"""Stored embeddings of many images as one array that stays on disk."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Rows that are converted at once where a whole array is asked for.
STRIP = 8192


class StoredPart:
    """A .npy file that is mapped while it is used: a map holds its file open, and there are thousands of parts."""

    def __init__(self, path: Path) -> None:
        stat = path.stat()
        self.file = (path, stat.st_ino, stat.st_mtime_ns)  # a part that is written anew is another file
        self.shape = tuple(np.load(path, mmap_mode="r").shape)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, key: Any) -> np.ndarray:
        return _mapped(self.file)[key]


@functools.lru_cache(maxsize=64)
def _mapped(file: tuple[Path, int, int]) -> np.ndarray:
    return np.load(file[0], mmap_mode="r")


class Embeddings:
    """Unit float32 vectors [N, D] over memory-mapped float16 parts; only the rows asked for are converted.

    `embeddings[a:b]` and `embeddings[rows]` (int64 [n], any order, or bool [N]) give float32 arrays of unit rows: what
    was stored as float16 is up to 1e-3 longer or shorter. A row's vector depends on what is stored for it alone, so
    that it is the same in every block; one that holds NaN or infinity holds NaN. `take` keeps some rows without
    reading them; np.asarray reads all.
    """

    def __init__(
        self, parts: Sequence[np.ndarray | StoredPart], rows: np.ndarray | None = None, width: int | None = None
    ) -> None:
        self.parts = [part for part in parts if len(part)]
        self.starts = np.cumsum([0, *(len(part) for part in self.parts)])
        self.rows = np.arange(self.starts[-1]) if rows is None else rows
        wide = width if width is not None else max((part.shape[1] for part in parts), default=0)
        self.shape = (len(self.rows), wide)
        self.dtype, self.ndim = np.dtype(np.float32), 2

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, mask: np.ndarray) -> "Embeddings":
        """The rows of a bool [N] or int64 [n] mask, still on disk."""
        return Embeddings(self.parts, self.rows[mask], self.shape[1])

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        """float32 [n, D], unit rows, of a slice, of row numbers or of a mask."""
        rows = self.rows[key]
        out = np.empty((len(rows), self.shape[1]), np.float32)
        part = np.searchsorted(self.starts, rows, side="right") - 1
        order = np.argsort(part, kind="stable")
        borders = np.flatnonzero(np.diff(part[order], prepend=-1, append=len(self.parts)))
        for first, end in zip(borders[:-1], borders[1:], strict=True):
            places = order[first:end]
            number = part[places[0]]
            out[places] = self.parts[number][rows[places] - self.starts[number]]
        with np.errstate(invalid="ignore"):  # a row that holds infinity becomes NaN
            out /= np.maximum(np.sqrt(np.einsum("nd,nd->n", out, out))[:, None], 1e-12)
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("embeddings lie on disk: an array of them is always a copy")
        full = np.empty(self.shape, np.float32)
        for first in range(0, len(self), STRIP):
            full[first : first + STRIP] = self[first : first + STRIP]
        return full if dtype is None else full.astype(dtype, copy=False)
