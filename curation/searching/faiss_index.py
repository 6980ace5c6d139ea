"""Approximate nearest neighbours for pools beyond an exact search: an index within a memory budget, measured."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curation.searching.neighbours import BLOCK_BYTES, Best, Found, directions, gpus, read_ahead, top_k, unit_blocks
from curation.workspace import write_array
from datamodules.files import atomic, fingerprint

Blocks = Callable[[], Iterable[np.ndarray]]  # gives all embeddings anew, in the same order

HNSW_LINKS = 32
# Building a graph takes about a millisecond a row, and walking it as many steps as neighbours are asked for.
# Measured on two cores, 300,000 x 256, 1,000 queries, k = 200, recall 0.97: HNSW-PQ 232 s, IVF-PQ 25 s, IVF-Flat 24 s.
HNSW_MOST_ROWS, HNSW_MOST_K = 20_000_000, 64
# Training vectors per cell: faiss asks for 39 at least.
PER_CELL = 64
LEAST_SAMPLE = 65_536
PAIRS = 16_384  # of query and candidate that are compared at a time
LARGEST_EFSEARCH = 4096
MOST_CANDIDATES = 64  # times k


@dataclass(frozen=True)
class Approximate:
    """When an approximate index takes the place of the exact search, and what it may cost.

    Args:
        exact_below: Images below which the search is exact. On a GPU it is exact for any number.
        index_gb: Memory for the index, in GB; decides between IVF-Flat, HNSW-PQ and IVF-PQ.
        recall: Share of the exact nearest that must be found; the effort grows until a sample of queries shows it.
        sample: Queries of that sample.
    """

    exact_below: int = 10_000_000
    index_gb: float = 16.0
    recall: float = 0.95
    sample: int = 64

    def check(self, key: str) -> None:
        """Raises ValueError naming the yaml key."""
        for name in ("index_gb", "sample"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{key}.{name} must be positive, got {getattr(self, name)}")
        if not 0 < self.recall <= 1:
            raise ValueError(f"{key}.recall must be in (0, 1], got {self.recall}")


@dataclass(frozen=True)
class Plan:
    """An index: faiss's factory string, cells (0 for a graph), and its bytes in memory."""

    factory: str
    cells: int
    size: int


def plan_index(rows: int, width: int, budget: float, k: int) -> Plan:
    """The index of the highest recall that fits into `budget` bytes.

    IVF-Flat (in float16, which pools are stored in) where it fits; else, for few neighbours of up to 20 million rows,
    a graph over compressed vectors; else compressed vectors in cells, as finely as the budget allows. Raises
    ValueError naming the least budget.
    """
    plans = _plans(rows, width, k)
    for plan in plans:
        if plan.size <= budget:
            return plan
    least = min(plan.size for plan in plans) / 1e9
    raise ValueError(f"an index of {rows} x {width} embeddings takes at least {least:.3g} GB, not {budget / 1e9:.3g}")


def find_neighbours(
    queries: np.ndarray,
    blocks: Blocks,
    rows: int,
    k: int,
    settings: Approximate,
    folder: Path,
    key: str,
    devices: list[str] | None = None,
) -> tuple[Found, dict[str, Any]]:
    """What `top_k` gives, exactly below `exact_below` rows or on a GPU, else as an index finds it; and how.

    blocks: gives the embeddings [rows, D] anew at each call. folder: where the index is kept. key: the yaml key of
    `settings`. devices: torch devices to search on; when null, the GPUs. The similarities are exact in any case: what
    the index proposes is compared with the embeddings. The report says {"index": None}, or the index's factory
    string, bytes, effort and measured recall.
    """
    devices = gpus() if devices is None else devices
    if rows < settings.exact_below or devices:
        return top_k(queries, blocks(), k, devices=devices), {"index": None}
    queries = directions(queries)
    try:
        plan = plan_index(rows, queries.shape[1], settings.index_gb * 1e9, k)
    except ValueError as error:
        raise ValueError(f"{key}.index_gb is {settings.index_gb:g}: {error}") from None
    index = build_index(plan, blocks, rows, queries.shape[1], folder)
    picked = np.random.default_rng(0).permutation(len(queries))[: settings.sample]
    sample = queries[np.sort(picked)]
    report = index.tune(sample, top_k(sample, blocks(), k, devices=devices)[1], settings.recall)
    found = compare(queries, blocks, index.propose(queries, k), k)
    return found, {"index": plan.factory, "bytes": plan.size, **report}


def _plans(rows: int, width: int, k: int) -> list[Plan]:
    """All candidates, that of the highest recall first; a tie goes to the faster."""
    cells = max(1, int(2 * math.sqrt(rows)))
    centroids, book = cells * width * 4, 256 * width * 4
    codes = [width // part for part in (2, 4, 8, 16, 32) if width % part == 0] or [1]
    plans = [Plan(f"IVF{cells},SQfp16", cells, rows * (2 * width + 8) + centroids)]
    if rows <= HNSW_MOST_ROWS and k <= HNSW_MOST_K:
        links = 4 * (2 * HNSW_LINKS + 2) + 12  # twice the links on the lowest level, few on those above
        plans += [Plan(f"HNSW{HNSW_LINKS}_PQ{m}", 0, rows * (m + links) + book) for m in codes[:3]]
    return plans + [Plan(f"IVF{cells},PQ{m}", cells, rows * (m + 8) + centroids + book) for m in codes]


class BuiltIndex:
    """An index whose ids are the embeddings' rows, and how hard it searches.

    effort: cells that are probed, or the graph's efSearch. candidates: proposals for every one that is asked for.
    """

    def __init__(self, index: Any, rows: np.ndarray, plan: Plan) -> None:
        self.index, self.rows, self.plan = index, rows, plan
        self.effort, self.candidates = 16, 1 if plan.factory.endswith("SQfp16") else 2

    def propose(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Rows int64 [Q, candidates * k], -1 where there is none."""
        import faiss

        name = "nprobe" if self.plan.cells else "efSearch"
        faiss.ParameterSpace().set_index_parameter(self.index, name, self.effort)
        places = self.index.search(queries, min(self.candidates * k, len(self.rows)))[1]
        return np.where(places < 0, -1, self.rows[np.maximum(places, 0)])

    def tune(self, queries: np.ndarray, exact: np.ndarray, recall: float) -> dict[str, Any]:
        """Doubles the effort, then the candidates, until the exact neighbours int64 [Q, k] are among the proposals."""
        k, most = exact.shape[1], self.plan.cells or LARGEST_EFSEARCH
        while (found := recall_of(self.propose(queries, k), exact)) < recall:
            if self.effort < most:
                self.effort = min(2 * self.effort, most)
            elif self.candidates < MOST_CANDIDATES and self.candidates * k < len(self.rows):
                self.candidates *= 2
            else:
                break
        return {"effort": self.effort, "candidates": self.candidates, "recall": round(found, 4)}


def build_index(plan: Plan, blocks: Blocks, rows: int, width: int, folder: Path) -> BuiltIndex:
    """The index of all rows, memory-mapped; made in `folder` unless it is there.

    Trained on a sample, filled block by block and written whole; a stopped run does not train again.
    """
    import faiss

    made = folder / f"index-{fingerprint([plan.factory, rows, width])}.faiss"
    trained, numbers = made.with_suffix(".trained"), made.with_suffix(".npy")
    if not made.exists():
        if not trained.exists():
            index = _empty(plan, width)
            index.train(_sample(blocks, rows, width, max(PER_CELL * plan.cells, LEAST_SAMPLE)))
            _write(index, trained)
        index = faiss.read_index(str(trained))
        present = [np.empty(0, np.int64)]
        for vectors, found in read_ahead(unit_blocks(blocks(), width, BLOCK_BYTES)):
            index.add(vectors)
            present.append(found)
        # A row without direction is in no index, so that faiss's ids, which count what was added, are not the rows.
        write_array(numbers, np.concatenate(present))
        _write(index, made)
        del index
        trained.unlink()
    mapped = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY
    return BuiltIndex(faiss.read_index(str(made), mapped), np.load(numbers, mmap_mode="r"), plan)


def compare(queries: np.ndarray, blocks: Blocks, proposed: np.ndarray, k: int) -> Found:
    """The k most similar of each query's proposed rows [Q, C], by their embeddings, which are read once in order."""
    best = Best(len(queries), k)
    flat = proposed.ravel()
    order = np.argsort(flat, kind="stable")
    order = order[np.searchsorted(flat, 0, sorter=order) :]
    wanted, query = flat[order], order // proposed.shape[1]
    similarity = np.full(len(wanted), -np.inf, np.float32)
    for vectors, rows in read_ahead(unit_blocks(blocks(), queries.shape[1], BLOCK_BYTES)):
        begin, end = np.searchsorted(wanted, [rows[0], rows[-1] + 1])
        for first in range(begin, end, PAIRS):
            part = slice(first, min(first + PAIRS, end))
            place = np.searchsorted(rows, wanted[part])
            similarity[part] = np.einsum("nd,nd->n", vectors[place], queries[query[part]])
    similarities = np.full(flat.shape, -np.inf, np.float32)
    similarities[order] = similarity
    best.merge((similarities.reshape(proposed.shape), proposed))
    return best.similarities, best.rows


def recall_of(found: np.ndarray, exact: np.ndarray) -> float:
    """Share of the exact rows [Q, k] that are among those found [Q, C]; -1 counts on neither side."""
    hits = sum(int(np.isin(right[right >= 0], left).sum()) for left, right in zip(found, exact, strict=True))
    return hits / max(1, int((exact >= 0).sum()))


def _empty(plan: Plan, width: int) -> Any:
    import faiss

    index: Any = faiss.index_factory(width, plan.factory, faiss.METRIC_INNER_PRODUCT)
    coded = index if plan.cells else faiss.downcast_index(index.storage)
    if hasattr(coded, "do_polysemous_training"):  # minutes for a search by Hamming distance, which is not ours
        coded.do_polysemous_training = False
    return index


def _sample(blocks: Blocks, rows: int, width: int, count: int) -> np.ndarray:
    """Unit float32 vectors of rows that a fixed seed draws."""
    wanted = np.sort(np.random.default_rng(0).permutation(rows)[:count])
    taken = [np.empty((0, width), np.float32)]
    for vectors, numbers in read_ahead(unit_blocks(blocks(), width, BLOCK_BYTES)):
        taken.append(vectors[np.isin(numbers, wanted, assume_unique=True)])
    return np.concatenate(taken)


def _write(index: Any, path: Path) -> None:
    import faiss

    with atomic(path) as temporary:
        faiss.write_index(index, str(temporary))
