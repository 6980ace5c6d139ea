"""All pairs of rows above a cosine, exactly, joined into groups: blocked products in bounded memory.

Two rows are similar when the float32 nearest to their exact product is above the float32 threshold. A tile's product
has rounding errors: pairs further from the threshold than the errors' bound are decided by the tile, the few between
are computed again in float64. So half-precision tiles, of a GPU or of a processor that multiplies bfloat16 (twice as
fast with AVX-512, seven times with AMX), give the same groups as float32 tiles, on every machine.
"""

from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from curation.components import Components
from curation.embeddings import Embeddings
from curation.products import as_float32, bfloat16_is_faster, exact_products
from curation.rounding import limits, margin
from curation.tile_scans import scan_compiled, scan_tensor

Vectors = np.ndarray | Embeddings

# Rows that are converted at once, and a tile of products: 4 MiB in bfloat16, so that the scan finds it in the cache.
STRIP, TILE_ROWS, TILE_COLUMNS = 8192, 512, 4096
# A tile on a GPU: 512 MiB in half precision.
DEVICE_ROWS, DEVICE_COLUMNS = 4096, 65536
# Converted rows that stay for the next blocks; on a GPU half of its free memory.
CACHE_BYTES = 2**28
# Rows of a block: at least, and the bytes that it may have in half precision.
BLOCK_ROWS, BLOCK_BYTES = 8192, 2**26
# Pairs of a tile that may be computed again; a half-precision tile with more is multiplied in float32 instead.
DOUBTFUL = 4 * TILE_COLUMNS
EXACT_PAIRS = 2048
# Fewer rows than this are not worth the test of the processor.
ROWS_TO_TEST = 8192
# The largest norm whose products float16 holds.
LARGEST_NORM = 200.0


def block_pairs(count: int, width: int) -> list[tuple[range, range]]:
    """The upper triangle of all pairs of rows, cut into pairs of blocks of rows; a function of the shape alone."""
    most = max(BLOCK_ROWS, BLOCK_BYTES // (2 * max(1, width)))
    size = min(most, -(-count // (8 * BLOCK_ROWS)) * BLOCK_ROWS)
    blocks = [range(first, min(first + size, count)) for first in range(0, count, size)] if count else []
    return [(rows, columns) for place, rows in enumerate(blocks) for columns in blocks[place:]]


def join_similar(
    vectors: Vectors, threshold: float, groups: Components, norm: float = 1.0, dtype: torch.dtype | None = None,
    devices: list[str] | None = None,
) -> None:  # fmt: skip
    """Joins every two rows whose cosine is above the threshold.

    vectors: unit [N, D], float32 or float16 (also on disk), of at most this norm. For the rest see PairSearch.
    """
    search = PairSearch(vectors, threshold, norm, dtype, devices)
    for rows, columns in block_pairs(*vectors.shape):
        edges = search.forest(rows, columns)
        groups.join(edges[:, 0], edges[:, 1])


class PairSearch:
    """The search of similar pairs between two blocks of rows.

    Args:
        vectors: Unit [N, D], float32 or float16, also on disk.
        threshold: Pairs with a cosine strictly above it are similar.
        norm: Bound of the rows' norms, up to float32's rounding.
        dtype: Of the products; None takes the fastest.
        devices: Torch devices that share the work; none or null for the CPU, with torch's threads.
    """

    def __init__(
        self, vectors: Vectors, threshold: float, norm: float = 1.0, dtype: torch.dtype | None = None,
        devices: list[str] | None = None,
    ) -> None:  # fmt: skip
        self.vectors, self.threshold = vectors, threshold
        self.devices = devices or ["cpu"] * torch.get_num_threads()
        self.compiled = not devices
        if dtype is None and devices:
            dtype = torch.float16 if norm < LARGEST_NORM else torch.float32
        elif dtype is None:
            dtype = torch.bfloat16 if len(vectors) >= ROWS_TO_TEST and bfloat16_is_faster() else torch.float32
        self.dtype = dtype
        width, norm = vectors.shape[1], norm * (1 + 1e-6)
        self.limits = {kind: limits(threshold, margin(kind, width, norm), kind) for kind in (dtype, torch.float32)}
        self.blocks: dict[str, OrderedDict[range, torch.Tensor]] = {}
        self.room: dict[str, int] = {}
        for device in self.devices:
            self.blocks[device] = OrderedDict()
            on_cpu = torch.device(device).type == "cpu"
            self.room[device] = CACHE_BYTES if on_cpu else torch.cuda.mem_get_info(device)[0] // 2

    def forest(self, rows: range, columns: range) -> np.ndarray:
        """int64 [E, 2]: edges (smallest row, row) of the groups that similar pairs of the two ranges make.

        A pair is one row of each range; the ranges are equal, or the first lies before the second. The same whatever
        the device, the type of the products and the number of threads.
        """
        sides = {
            device: (self._block(rows, device), self._block(columns, device)) for device in dict.fromkeys(self.devices)
        }
        tile = (TILE_ROWS, TILE_COLUMNS) if self.compiled else (DEVICE_ROWS, DEVICE_COLUMNS)
        tiles = list(_tiles(rows, columns, *tile))
        lanes = [_Lane(self, rows, columns, *sides[device]) for device in self.devices[: max(1, len(tiles))]]
        with exact_products():
            if len(lanes) == 1:
                lanes[0].run(tiles)
            else:
                self._run(lanes, tiles)
        groups = lanes[0].groups
        for lane in lanes[1:]:
            labels = lane.groups.labels()
            groups.join(np.arange(len(labels)), labels)
        labels = groups.labels()
        member = np.flatnonzero(labels != np.arange(len(labels)))
        numbers = lanes[0].numbers
        return np.column_stack([numbers[labels[member]], numbers[member]])

    def _run(self, lanes: list["_Lane"], tiles: list[tuple[range, range]]) -> None:
        """Each lane in a thread, whose products take no further threads."""
        threads = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(len(lanes), initializer=torch.set_num_threads, initargs=(1,)) as pool:
                for work in [pool.submit(lane.run, tiles[n :: len(lanes)]) for n, lane in enumerate(lanes)]:
                    work.result()
        finally:
            torch.set_num_threads(threads)

    def _block(self, rows: range, device: str) -> torch.Tensor:
        """Some rows in the products' type on a device; those used last stay there."""
        blocks = self.blocks[device]
        block = blocks.pop(rows, None)
        if block is None:
            block = torch.empty(len(rows), self.vectors.shape[1], dtype=self.dtype, device=device)
            for first in range(0, len(rows), STRIP):
                part = rows[first : first + STRIP]
                block[first : first + len(part)] = as_float32(self.vectors[part.start : part.stop]).to(device)
        blocks[rows] = block
        while len(blocks) > 2 and sum(block.nbytes for block in blocks.values()) > self.room[device]:
            blocks.popitem(last=False)
        return block


class _Lane:
    """One thread's or device's share of the tiles, with groups of its own.

    Rows are counted through both blocks: place i of the first is i, of the second len(rows) + i.
    """

    def __init__(
        self, search: PairSearch, rows: range, columns: range, left: torch.Tensor, right: torch.Tensor
    ) -> None:
        self.search, self.left, self.right = search, left, right
        same = rows == columns
        self.second = 0 if same else len(rows)
        numbers = [np.arange(part.start, part.stop) for part in ([rows] if same else [rows, columns])]
        self.numbers = np.concatenate(numbers)
        self.groups = Components(len(self.numbers))
        self.waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self.count = 0

    def run(self, tiles: list[tuple[range, range]]) -> None:
        """Joins the similar pairs of some tiles."""
        buffer = torch.empty(max((len(a) * len(b) for a, b in tiles), default=0),
                             dtype=self.left.dtype, device=self.left.device)  # fmt: skip
        with torch.inference_mode():
            for a, b in tiles:
                product = buffer[: len(a) * len(b)].view(len(a), len(b))
                torch.mm(self.left[a.start : a.stop], self.right[b.start : b.stop].T, out=product)
                self._scan(product, a, b)
        self._decide()

    def _scan(self, product: torch.Tensor, a: range, b: range) -> None:
        scan = scan_compiled if self.search.compiled and self.groups.kernels is not None else scan_tensor
        first = self.second + b.start
        room = None if product.dtype == torch.float32 else DOUBTFUL
        for found in scan(product, a.start, first, self.search.limits[product.dtype], self.groups, room):
            if found is None:  # too many doubtful pairs for half precision
                left, right = (self._exact(part) for part in (a, range(first, first + len(b))))
                self._scan(left @ right.T, a, b)
                return
            self.waiting.append(found)
            self.count += len(found[0])
            if self.count >= EXACT_PAIRS:
                self._decide()

    def _exact(self, places: range) -> torch.Tensor:
        numbers = self.numbers[places.start : places.stop]
        return as_float32(self.search.vectors[numbers[0] : numbers[-1] + 1]).to(self.left.device)

    def _decide(self) -> None:
        """Computes the doubtful pairs again."""
        left, right = (
            np.concatenate([np.empty(0, np.int64), *(pair[side] for pair in self.waiting)]) for side in (0, 1)
        )
        self.waiting, self.count = [], 0
        similar = above(self.search.vectors, self.numbers[left], self.numbers[right], self.search.threshold)
        self.groups.join(left[similar], right[similar])


def _tiles(rows: range, columns: range, height: int, width: int) -> Iterator[tuple[range, range]]:
    """Tiles of two blocks, as ranges inside each, without those below the diagonal."""
    for i in range(0, len(rows), height):
        for j in range(i if rows == columns else 0, len(columns), width):
            yield range(i, min(i + height, len(rows))), range(j, min(j + width, len(columns)))


def above(vectors: Vectors, left: np.ndarray, right: np.ndarray, threshold: float) -> np.ndarray:
    """Bool [E]: whether the float32 nearest to the exact product of two rows is above the float32 threshold."""
    similar = np.empty(len(left), bool)
    for i in range(0, len(left), EXACT_PAIRS):
        part = slice(i, i + EXACT_PAIRS)
        a, b = (np.asarray(vectors[side[part]], np.float32).astype(np.float64) for side in (left, right))
        similar[part] = np.einsum("nd,nd->n", a, b).astype(np.float32) > np.float32(threshold)
    return similar
