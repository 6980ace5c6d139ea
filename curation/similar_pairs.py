"""All pairs of rows above a cosine, exactly, joined into groups: blocked products in bounded memory.

Two rows are similar when the float32 nearest to their exact product is above the float32 threshold. A tile's product
has rounding errors: pairs further from the threshold than the errors' bound are decided by the tile, the few between
are computed again in float64. So bfloat16 tiles, twice (AVX-512) to seven times (AMX) as fast where the processor
multiplies them, give the same groups as float32 tiles, on every machine.
"""

import time
from functools import cache

import numpy as np
import torch

from curation.components import Components

# Rows that are converted at once, and a tile of products: 4 MiB in bfloat16, so that the scan finds it in the cache.
STRIP, TILE_ROWS, TILE_COLUMNS = 8192, 512, 4096
# Pairs of a tile that may be computed again; a bfloat16 tile with more is multiplied in float32 instead.
DOUBTFUL = 4 * TILE_COLUMNS
EXACT_PAIRS = 2048
# Fewer rows than this are not worth the test of the processor.
ROWS_TO_TEST = 8192
INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}


def join_similar(vectors: np.ndarray, threshold: float, groups: Components, dtype: torch.dtype | None = None) -> None:
    """Joins every two rows whose cosine is above the threshold.

    vectors: unit [N, D], float32 or float16 (also memory-mapped); dtype: of the products, None takes the faster one.
    """
    if dtype is None:
        dtype = torch.bfloat16 if len(vectors) >= ROWS_TO_TEST and bfloat16_is_faster() else torch.float32
    norm = max((float(as_float32(vectors[i : i + STRIP]).norm(dim=1).max()) for i in range(0, len(vectors), STRIP)),
               default=1.0)  # fmt: skip
    tiles = _Tiles(vectors, threshold, groups, norm, dtype)
    for top in range(0, len(vectors), STRIP):
        strip = as_float32(vectors[top : top + STRIP]).to(dtype)
        for first in range(top, len(vectors), STRIP):
            other = strip if first == top else as_float32(vectors[first : first + STRIP]).to(dtype)
            tiles.join(strip, top, other, first)


class _Tiles:
    """The scan of tiles, with its buffers."""

    def __init__(
        self, vectors: np.ndarray, threshold: float, groups: Components, norm: float, dtype: torch.dtype
    ) -> None:
        self.vectors, self.threshold, self.groups, self.dtype = vectors, threshold, groups, dtype
        self.bounds = {
            kind: _bounds(threshold, margin(kind, vectors.shape[1], norm), kind) for kind in (dtype, torch.float32)
        }
        self.product = torch.empty(TILE_ROWS * TILE_COLUMNS, dtype=dtype)
        self.left, self.right = np.empty(DOUBTFUL, np.int64), np.empty(DOUBTFUL, np.int64)

    def join(self, strip: torch.Tensor, top: int, other: torch.Tensor, first: int) -> None:
        """Joins similar pairs of two strips, which start at rows top <= first."""
        for i in range(0, len(strip), TILE_ROWS):
            a = strip[i : i + TILE_ROWS]
            for j in range(0, len(other), TILE_COLUMNS):
                b = other[j : j + TILE_COLUMNS]
                if first + j + len(b) <= top + i:  # below the diagonal
                    continue
                product = self.product[: len(a) * len(b)].view(len(a), len(b))
                torch.mm(a, b.T, out=product)
                if not self._scan(product, top + i, first + j, partly=self.dtype != torch.float32):
                    exact = as_float32(self.vectors[top + i : top + i + len(a)])
                    exact = exact @ as_float32(self.vectors[first + j : first + j + len(b)]).T
                    self._scan(exact, top + i, first + j, partly=False)

    def _scan(self, product: torch.Tensor, top: int, first: int, partly: bool) -> bool:
        """Joins the pairs of a tile. With `partly`, False if it stopped at too many doubtful pairs."""
        possible, certain, ordered = self.bounds[product.dtype]
        bits = _ordered_integers(product) if ordered else product.view(INTEGERS[product.dtype])
        begin = 0
        while begin < len(bits):
            arguments = (bits.numpy(), top, first, possible, certain, begin)
            if self.groups.kernels is None:
                begin, left, right = _scan_rows(*arguments, self.groups)
            else:
                begin, count = self.groups.kernels.scan(*arguments, self.groups.parents, self.left, self.right)
                left, right = self.left[:count], self.right[:count]
            if partly and (begin < len(bits) or len(left) > DOUBTFUL):
                return False
            self._decide(left, right)
        return True

    def _decide(self, left: np.ndarray, right: np.ndarray) -> None:
        similar = above(self.vectors, left, right, self.threshold)
        self.groups.join(left[similar], right[similar])


def _scan_rows(
    bits: np.ndarray, top: int, first: int, possible: int, certain: int, begin: int, groups: Components
) -> tuple[int, np.ndarray, np.ndarray]:
    """Twin of pair_kernels.scan: (rows of the tile, doubtful left, doubtful right); it always ends the tile."""
    hit = np.flatnonzero(bits.max(axis=1) >= possible)
    a, b = np.nonzero(bits[hit] >= possible)
    a = hit[a]
    upper = top + a < first + b
    a, b = a[upper], b[upper]
    sure = bits[a, b] >= certain
    left, right = top + a.astype(np.int64), first + b.astype(np.int64)
    groups.join(left[sure], right[sure])
    return len(bits), left[~sure], right[~sure]


def above(vectors: np.ndarray, left: np.ndarray, right: np.ndarray, threshold: float) -> np.ndarray:
    """Bool [E]: whether the float32 nearest to the exact product of two rows is above the float32 threshold."""
    similar = np.empty(len(left), bool)
    for i in range(0, len(left), EXACT_PAIRS):
        part = slice(i, i + EXACT_PAIRS)
        a, b = (np.asarray(vectors[side[part]], np.float32).astype(np.float64) for side in (left, right))
        similar[part] = np.einsum("nd,nd->n", a, b).astype(np.float32) > np.float32(threshold)
    return similar


def margin(dtype: torch.dtype, width: int, norm: float) -> float:
    """Bound of the error of a product of two rows of at most this norm.

    Cauchy-Schwarz bounds the sum of |products| by norm^2. float32: `width` roundings in the sum. bfloat16: rounding of
    both factors, 2^-8 each, and of the result, 2^-8 up to 2, on top of a float32 sum.
    """
    rounding = (width + 2) * 2.0**-23
    if dtype == torch.bfloat16:
        rounding += 2 * 2.0**-8 + 2.0**-16 + 2.0**-8
    return rounding * max(1.0, norm * norm)


def _bounds(threshold: float, error: float, dtype: torch.dtype) -> tuple[int, int, bool]:
    """(possible, certain) as integers of the dtype's order, and whether products must be mapped to that order.

    Non-negative floats are in the order of their bits; only a threshold near or below 0 needs the mapping.
    """
    ordered = threshold - error <= 0
    limits = []
    for value, up in ((threshold - error, -1), (threshold + error, 1)):
        rounded = torch.tensor([value], dtype=dtype)
        integer = int(_ordered_integers(rounded)[0])
        wrong = float(rounded) > value if up < 0 else float(rounded) < value
        limits.append(integer + up if wrong else integer)
    return limits[0], limits[1], ordered


def _ordered_integers(values: torch.Tensor) -> torch.Tensor:
    """Integers in the order of the floats, also of negative ones."""
    integers = values.view(INTEGERS[values.dtype])
    largest = torch.iinfo(integers.dtype).max
    return torch.where(integers < 0, integers ^ largest, integers)


def as_float32(block: np.ndarray) -> torch.Tensor:
    """A float32 copy of some rows (a memory map is read-only, which torch does not take)."""
    return torch.from_numpy(np.array(block, dtype=np.float32, order="C"))


@cache
def bfloat16_is_faster() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32, by trying both; at most about a second.

    Both give the same groups, so the answer changes the time only.
    """
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(TILE_ROWS + TILE_COLUMNS, 512, generator=generator)
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = factors.to(dtype).split([TILE_ROWS, TILE_COLUMNS])
        tries = []
        for _ in range(3):
            start = time.perf_counter()
            torch.mm(a, b.T)
            tries.append(time.perf_counter() - start)
            if sum(tries) > 0.4:
                break
        seconds[dtype] = min(tries)
    # The scan of half as many bytes is faster, the second look at doubtful pairs costs a little.
    return seconds[torch.bfloat16] < seconds[torch.float32]
