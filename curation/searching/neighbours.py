"""Exact nearest neighbours by cosine similarity, streamed over any number of embeddings."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
Found = tuple[np.ndarray, np.ndarray]  # similarities float32 [Q, k], rows int64 [Q, k]

# float32 vectors that are searched at a time; another block of the same size is read meanwhile.
BLOCK_BYTES = 512 * 1024**2
# Rows that are converted and normalised at a time, so that they stay in the processor's cache.
PIECE_ROWS = 2048
# Products that a torch device holds at a time.
TILE_BYTES = 1024**3


def top_k(
    queries: np.ndarray,
    blocks: Iterable[np.ndarray],
    k: int,
    *,
    block_bytes: int = BLOCK_BYTES,
    devices: list[str] | None = None,
) -> Found:
    """(float32 [Q, k] cosine similarities, int64 [Q, k] rows) of the k nearest rows of every query, nearest first.

    queries: [Q, D], of any length but 0. blocks: arrays [n, D] of float16 or float32, such as memory-mapped .npy
    files; rows count through all of them, and their sizes do not matter. Both sides are normalised here. A row without
    a direction (zeros, NaN, infinity) is found by no query. Where there are fewer than k rows, the rest has row -1 and
    similarity -inf. Equal similarities are in the order of the rows.

    Memory: two blocks of `block_bytes` and the result, beside the pages of mapped files, which the system may drop.
    devices: torch devices that share the work; when null, the GPUs, or without any faiss on all cores. faiss hangs in
    a process that is forked after it ran: call this from a run's main processes, never from a loader's workers.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    queries = directions(queries)
    devices = gpus() if devices is None else devices
    searches: list[_FaissSearch | _TorchSearch] = [_TorchSearch(queries, device) for device in devices]
    searches = searches or [_FaissSearch(queries)]
    best = Best(len(queries), k)
    for number, (vectors, rows) in enumerate(read_ahead(unit_blocks(blocks, queries.shape[1], block_bytes))):
        search = searches[number % len(searches)]
        best.merge(search.collect())  # only when it is this device's turn again, so that all of them are at work
        search.start(vectors, rows, min(k, len(rows)))
    for search in searches:
        best.merge(search.collect())
    return best.similarities, best.rows


def gpus() -> list[str]:
    """The CUDA devices of this process: its own where a launcher started several, else all; none on a CPU."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count and "LOCAL_RANK" in os.environ:
        return [f"cuda:{int(os.environ['LOCAL_RANK']) % count}"]
    return [f"cuda:{number}" for number in range(count)]


def directions(vectors: np.ndarray) -> np.ndarray:
    """float32 [Q, D] unit vectors. Raises ValueError for one that has no direction."""
    vectors = np.array(vectors, np.float32, order="C", ndmin=2)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    wrong = np.flatnonzero(~((norms > 0) & np.isfinite(norms)))
    if len(wrong):
        raise ValueError(f"query {wrong[0]} has no direction: its norm is {norms[wrong[0], 0]}")
    return vectors / norms


class Best:
    """The k best of all that was merged: similarities falling, equal ones by row; -inf and -1 where there is none."""

    def __init__(self, queries: int, k: int) -> None:
        self.similarities = np.full((queries, k), -np.inf, np.float32)
        self.rows = np.full((queries, k), -1, np.int64)

    def merge(self, found: Found | None) -> None:
        """Adds results, similarities falling, of the same queries."""
        if found is None:
            return
        k = self.rows.shape[1]
        for first in range(0, len(self.rows), 512):  # in pieces, as sorting holds several copies
            part = slice(first, first + 512)
            similarities = np.concatenate([self.similarities[part], found[0][part]], axis=1)
            rows = np.concatenate([self.rows[part], found[1][part]], axis=1)
            order = np.argsort(-similarities, axis=1, kind="stable")  # merges the two sorted runs in one pass
            ordered = np.take_along_axis(similarities, order, axis=1)
            tied = np.flatnonzero(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] > -np.inf)).any(axis=1))
            order[tied] = np.lexsort((rows[tied], -similarities[tied]), axis=1)
            self.similarities[part] = ordered[:, :k]
            self.rows[part] = np.take_along_axis(rows, order[:, :k], axis=1)


class _FaissSearch:
    """faiss's exhaustive search: blocked products on all cores, and a reservoir of the best."""

    def __init__(self, queries: np.ndarray) -> None:
        self.queries = queries
        self.found: Found | None = None

    def start(self, vectors: np.ndarray, rows: np.ndarray, k: int) -> None:
        import faiss

        similarities, places = faiss.knn(self.queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
        self.found = similarities, rows[places]

    def collect(self) -> Found | None:
        found, self.found = self.found, None
        return found


class _TorchSearch:
    """Products and selection on one torch device, in float32."""

    def __init__(self, queries: np.ndarray, device: str) -> None:
        import torch

        self.queries = torch.from_numpy(queries).to(device)
        self.pending: tuple[list[Any], np.ndarray] | None = None

    def start(self, vectors: np.ndarray, rows: np.ndarray, k: int) -> None:
        import torch

        block = torch.from_numpy(vectors).to(self.queries.device)
        tile = max(1, TILE_BYTES // (4 * len(rows)))
        with torch.inference_mode(), _full_precision():
            self.pending = [torch.topk(part @ block.T, k) for part in self.queries.split(tile)], rows

    def collect(self) -> Found | None:
        if self.pending is None:
            return None
        (tops, rows), self.pending = self.pending, None
        similarities = np.concatenate([top.values.cpu().numpy() for top in tops])
        return similarities, rows[np.concatenate([top.indices.cpu().numpy() for top in tops])]


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Products in float32, neither TF32 nor bfloat16, whatever the run has chosen for its models."""
    import torch

    chosen = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(chosen)


def unit_blocks(blocks: Iterable[np.ndarray], width: int, block_bytes: int) -> Iterator[Found]:
    """(unit float32 [n, D], their rows) in blocks of `block_bytes`, cut from and joined of arrays of any sizes.

    Two buffers take turns: a block is overwritten when the next but one is asked for.
    """
    capacity = max(1, block_bytes // (4 * width))
    buffers: list[np.ndarray] = []
    rows, filled, turn, first = np.empty(capacity, np.int64), 0, 0, 0
    for array in blocks:
        if array.ndim != 2 or array.shape[1] != width:
            raise ValueError(f"embeddings are {list(array.shape)}, but the queries have {width} dimensions")
        begin = 0
        while begin < len(array):
            if len(buffers) <= turn:
                buffers.append(np.empty((capacity, width), np.float32))
            end = min(begin + PIECE_ROWS, begin + capacity - filled, len(array))
            good = _normalise(array[begin:end], buffers[turn][filled : filled + end - begin])
            rows[filled : filled + len(good)] = first + begin + good
            filled, begin = filled + len(good), end
            if filled == capacity:
                yield buffers[turn], rows.copy()
                filled, turn = 0, 1 - turn
        first += len(array)
    if filled:
        yield buffers[turn][:filled], rows[:filled].copy()


def _normalise(array: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Writes unit vectors to the beginning of `out`; returns the places of the rows that have a direction."""
    with np.errstate(all="ignore"):
        out[:] = array
        norms = np.sqrt(np.einsum("nd,nd->n", out, out))
        good = np.flatnonzero((norms > 0) & np.isfinite(norms))
        if len(good) < len(out):
            out[: len(good)] = out[good]
        out[: len(good)] /= norms[good, None]
    return good


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """The items, each made in a thread while the one before is used: reading and searching overlap."""
    end: Any = object()
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = reader.submit(next, items, end)
            yield item
