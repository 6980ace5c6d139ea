"""The most similar rows of a bank by cosine, exact, in blocks: memory is bounded whatever the number of rows."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from datamodules.progress import Progress
from pas_train.evaluation.metrics import largest

QUERIES = 1024
TILE = 8192  # rows of the bank, so that a tile of similarities stays near the processor's caches
WIDE_TILE = 65_536  # for topk, whose time is that of its width; a tile is 256 MiB
BLOCK_BYTES = 2**28  # of the bank's rows that are held at a time


def nearest(
    train: np.ndarray | Tensor, test: np.ndarray | Tensor, k: int, device: torch.device | None = None,
    title: str | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Cosines float32 [T, k] and rows int64 [T, k] of the k most similar rows of train [N, D] to each of test [T, D].

    Most similar first, equal ones by row. k is at most N. Embeddings are normalised here in float32, so they may be
    memory maps; a row of zeros, or of no numbers, is similar to none (0). Runs on the device (null: that of train).
    title: of the progress line where it takes long; null shows none.
    """
    device = device or (train.device if isinstance(train, Tensor) else torch.device("cpu"))
    search: _Search = (_Compiled if device.type == "cpu" and kernels() else _Search)(len(test), k, device)
    step = max(1, min(WIDE_TILE, BLOCK_BYTES // (4 * max(1, train.shape[1]))))
    pieces = -(-len(train) // step) * -(-len(test) // QUERIES)
    progress = Progress(title or "", pieces, unit="block", show=title is not None)
    with whole_products(), torch.inference_mode(), closing(progress):
        for first in range(0, len(train), step):
            bank = unit_rows(train[first : first + step], device)
            for begin in range(0, len(test), QUERIES):
                search.look(unit_rows(test[begin : begin + QUERIES], device), begin, bank, first)
                progress.step()
        return search.found()


def unit_rows(rows: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Rows of length one, float32, on the device; those that have no length stay zero."""
    if isinstance(rows, np.ndarray):  # a copy, as torch takes no read-only memory map
        rows = torch.from_numpy(np.array(rows, dtype=np.float32))
    lengths = torch.linalg.vector_norm(moved := rows.to(device).float(), dim=1, keepdim=True)
    unit = moved / lengths.clamp(min=1e-12)
    lost = ~lengths.isfinite()
    return unit.masked_fill_(lost, 0.0) if lost.any() else unit


@cache
def kernels() -> ModuleType | None:
    """Numba's kernels, None where numba is missing."""
    try:
        from pas_train.evaluation import neighbour_kernels
    except ImportError:
        return None
    return neighbour_kernels


@contextmanager
def whole_products() -> Iterator[None]:
    """Products in whole float32, whatever the training allows."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)


class _Search:
    """The best rows so far of all queries, by topk; on any device."""

    def __init__(self, queries: int, k: int, device: torch.device) -> None:
        self.k = k
        self.best: dict[int, tuple[Tensor, Tensor]] = {}
        self.empty = (torch.zeros(0, k, device=device), torch.zeros(0, k, dtype=torch.int64, device=device))

    def look(self, queries: Tensor, begin: int, bank: Tensor, first: int) -> None:
        """Holds the queries from place `begin` on against the bank's rows from `first` on."""
        similarities = queries @ bank.T
        values, rows = largest(similarities, min(self.k, len(bank)))
        rows = rows + first
        if begin in self.best:  # earlier rows first, so that equal values keep the smaller row
            values, rows = (torch.cat(pair, dim=1) for pair in zip(self.best[begin], (values, rows), strict=True))
            values, order = largest(values, min(self.k, values.shape[1]))
            rows = rows.gather(1, order)
        self.best[begin] = values, rows

    def found(self) -> tuple[Tensor, Tensor]:
        """Similarities and rows [T, k]."""
        values, rows = zip(*([self.best[begin] for begin in sorted(self.best)] or [self.empty]), strict=True)
        return torch.cat(values), torch.cat(rows)


class _Compiled(_Search):
    """The same by a kernel that looks once at each similarity while it is in the processor's cache."""

    def __init__(self, queries: int, k: int, device: torch.device) -> None:
        super().__init__(queries, k, device)
        room = 2 * k + 62
        self.values = np.empty((queries, room), np.float32)
        self.rows = np.empty((queries, room), np.int64)
        self.counts = np.zeros(queries, np.int64)
        self.least = np.full(queries, -np.inf, np.float32)
        self.product = torch.empty(QUERIES * TILE)
        self.threads = torch.get_num_threads()
        self.pool = ThreadPoolExecutor(self.threads)

    def look(self, queries: Tensor, begin: int, bank: Tensor, first: int) -> None:
        """Holds the queries from place `begin` on against the bank's rows from `first` on."""
        for start in range(0, len(bank), TILE):
            part = bank[start : start + TILE]
            tile = self.product[: len(queries) * len(part)].view(len(queries), len(part))
            torch.mm(queries, part.T, out=tile)
            self._scan(tile.numpy(), begin, first + start)

    def _scan(self, tile: np.ndarray, begin: int, first: int) -> None:
        module = kernels()
        assert module is not None

        def scan(top: int) -> None:
            own = slice(begin + top, begin + min(top + step, len(tile)))
            state = self.values[own], self.rows[own], self.counts[own], self.least[own]
            module.scan(tile[top : top + step], first, self.k, *state)

        step = -(-len(tile) // self.threads)
        list(self.pool.map(scan, range(0, len(tile), step)))

    def found(self) -> tuple[Tensor, Tensor]:
        """Similarities and rows [T, k]."""
        self.pool.shutdown()
        none = np.arange(self.values.shape[1]) >= self.counts[:, None]
        values, places = largest(torch.from_numpy(self.values).masked_fill_(torch.from_numpy(none), -torch.inf), self.k)
        return values, torch.from_numpy(self.rows).gather(1, places)
