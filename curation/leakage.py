"""How close every image comes to the nearest test image: exactly, in blocks, in bounded memory.

A tile's product of float32 vectors has rounding errors that depend on the machine. Products that may be the highest,
given a bound of those errors, are computed again in float64, and the float32 nearest to that decides: so a row's value
and its test image are the same on every device, for every block size and on any number of ranks.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from curation.arrays import like, to_numpy
from curation.embeddings import Embeddings
from curation.products import exact_products

Vectors = np.ndarray | Embeddings

# Test vectors that stay on an accelerator between calls. A CPU reads all again, at 1 % of its product's time: blocks
# that are held between others that come and go would leave holes in its memory.
HELD_BYTES = 2**32
EXACT_PAIRS = 2048
# Candidates per row beyond which equal test vectors (copies of one image) are left out of the exact comparison.
MANY = 8


class NotFinite(ValueError):
    """A vector with NaN or infinite values. row: its number among the vectors."""

    def __init__(self, name: str, row: int, count: int) -> None:
        super().__init__(f"{name} holds NaN or infinite values in {count} rows, the first is row {row}")
        self.row = row


def max_similarity(
    embeddings: Vectors, test_embeddings: Vectors, block: int = 4096, device: str | torch.device = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """(float32 [N] highest cosine, int64 [N] index of that test image), exact over all test images.

    embeddings: unit float32 [N, D]; test_embeddings: unit float32 [T, D]; either may lie on disk (Embeddings). Equal
    similarities go to the smaller index. block: test images of a tile of products; beside the result less than 100 MB
    are used on the CPU whatever N and T. Raises ValueError for no test image, other widths or NaN.
    """
    pool = _vectors(embeddings, "embeddings")
    nearest = NearestTests(test_embeddings, block, device)
    if len(pool) and pool.shape[1] != nearest.tests.shape[1]:
        raise ValueError(f"embeddings have {pool.shape[1]} dimensions, test_embeddings {nearest.tests.shape[1]}")
    best, index = np.empty(len(pool), np.float32), np.empty(len(pool), np.int64)
    for first, rows in blocks(pool, max(1, block // 4), "embeddings"):
        best[first : first + len(rows)], index[first : first + len(rows)] = nearest.find(rows)
    return like(best, embeddings), like(index, embeddings)


class NearestTests:
    """The test images, ready to be compared with block after block of the pool.

    tests: unit float32 [T, D], T > 0, may lie on disk; offsets: float32 [T] that is added to the similarity to each
    test image. block: test images of a tile.
    """

    def __init__(
        self, tests: Vectors, block: int = 4096, device: str | torch.device = "cpu", offsets: np.ndarray | None = None
    ) -> None:
        self.tests = _vectors(tests, "test_embeddings")
        if not len(self.tests):
            raise ValueError("test_embeddings is empty: there is no test image to screen against")
        self.block, self.device, self.offsets = block, torch.device(device), offsets
        self._held: dict[int, tuple[np.ndarray, torch.Tensor]] = {}
        size = block * max(1, self.tests.shape[1]) * 4
        self._room = 0 if self.device.type == "cpu" else HELD_BYTES // size
        self._product = torch.empty(0, device=self.device)

    def find(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(float32 [n] highest value, int64 [n] its test image) of float32 rows [n, D]."""
        best, index = np.full(len(rows), -np.inf, np.float32), np.zeros(len(rows), np.int64)
        left = torch.from_numpy(rows).to(self.device)
        norm = float(left.norm(dim=1).max()) if len(rows) else 0.0
        for first, tests, right in self._blocks():
            product = self._tile(len(left), len(right))
            with exact_products():
                torch.mm(left, right.T, out=product)
            # Rounding of D products and their sum is at most this for either of two values that are compared.
            error = 2 * (rows.shape[1] + 2) * 2.0**-23 * norm * float(right.norm(dim=1).max())
            added = None
            if self.offsets is not None:
                added = self.offsets[first : first + len(tests)]
                product += torch.from_numpy(added).to(self.device)
                error += 2.0**-22 * float(np.abs(added).max())
            floor = torch.maximum(product.max(dim=1).values, torch.from_numpy(best).to(self.device)) - error
            row, column = (pairs.cpu().numpy() for pairs in (product >= floor[:, None]).nonzero(as_tuple=True))
            if len(row) > MANY * len(rows):
                once = _first_of_equal(tests, added)[column]
                row, column = row[once], column[once]
            value = _exact(rows, tests, row, column, added)
            order = np.lexsort((column, -value, row))
            order = order[np.flatnonzero(np.diff(row[order], prepend=-1))]
            better = order[value[order] > best[row[order]]]
            best[row[better]], index[row[better]] = value[better], column[better] + first
        return best, index

    def _tile(self, rows: int, columns: int) -> torch.Tensor:
        """The buffer of products: one for all tiles, else the memory is full of holes of their size."""
        if self._product.numel() < rows * columns:
            self._product = torch.empty(rows * columns, device=self.device)
        return self._product[: rows * columns].view(rows, columns)

    def _blocks(self) -> Iterator[tuple[int, np.ndarray, torch.Tensor]]:
        for first in range(0, len(self.tests), self.block):
            if first not in self._held:
                tests = next(blocks(self.tests, self.block, "test_embeddings", first))[1]
                pair = tests, torch.from_numpy(tests).to(self.device)
                if len(self._held) >= self._room:
                    yield first, *pair
                    continue
                self._held[first] = pair
            yield first, *self._held[first]


def background_similarity(
    tests: Vectors, background: Vectors, neighbours: int, device: str | torch.device = "cpu", block: int = 4096
) -> np.ndarray:
    """float32 [T]: mean cosine of each test image to the `neighbours` nearest of a background set.

    SSCD's score normalisation takes this, times beta, from the similarities to a test image that resembles everything.
    tests: unit float32 [T, D]; background: unit float32 [B, D], B >= neighbours; both may lie on disk.
    """
    queries, others = _vectors(tests, "test_embeddings"), _vectors(background, "background")
    if len(others) < neighbours:
        raise ValueError(f"background has {len(others)} images, fewer than the {neighbours} nearest that are asked for")
    means = np.empty(len(queries), np.float32)
    for first, rows in blocks(queries, max(1, block // 4), "test_embeddings"):
        left = torch.from_numpy(rows).to(device)
        top = torch.empty((len(rows), 0), device=left.device)
        for _, part in blocks(others, block, "background"):
            with exact_products():
                product = left @ torch.from_numpy(part).to(device).T
            top = torch.cat([top, product.topk(min(neighbours, product.shape[1]), dim=1).values], dim=1)
            top = top.topk(min(neighbours, top.shape[1]), dim=1).values
        means[first : first + len(rows)] = top.double().mean(dim=1).cpu().numpy()
    return means


def blocks(vectors: Vectors, size: int, name: str, first: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, float32 [n, D]) of every `size` rows, from a row on. Raises NotFinite."""
    for start in range(first, len(vectors), size):
        rows = np.array(vectors[start : start + size], np.float32, order="C")
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            raise NotFinite(name, start + int(bad[0]), len(bad))
        yield start, rows


def _vectors(values: Any, name: str) -> Vectors:
    vectors: Vectors = values if isinstance(values, Embeddings) else to_numpy(values)
    if vectors.ndim != 2:
        raise ValueError(f"{name} must be [N, D], got shape {tuple(vectors.shape)}")
    return vectors


def _exact(
    rows: np.ndarray, tests: np.ndarray, row: np.ndarray, column: np.ndarray, added: np.ndarray | None
) -> np.ndarray:
    """float32 [E]: the nearest to the products of pairs of rows, plus what is added to those of a test image."""
    value = np.empty(len(row), np.float32)
    for i in range(0, len(row), EXACT_PAIRS):
        a, b = row[i : i + EXACT_PAIRS], column[i : i + EXACT_PAIRS]
        product = np.einsum("nd,nd->n", rows[a].astype(np.float64), tests[b].astype(np.float64))
        value[i : i + EXACT_PAIRS] = product if added is None else product + added[b].astype(np.float64)
    return value


def _first_of_equal(tests: np.ndarray, added: np.ndarray | None) -> np.ndarray:
    """Whether no earlier test image has the same vector (and addition), bool [T]."""
    whole = tests if added is None else np.concatenate([tests, added[:, None]], axis=1)
    whole = np.ascontiguousarray(whole)
    names = whole.view(np.dtype((np.void, whole.itemsize * whole.shape[1]))).ravel()
    once = np.zeros(len(tests), bool)
    once[np.unique(names, return_index=True)[1]] = True
    return once
