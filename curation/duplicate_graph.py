"""The graph of similar pairs, searched in tasks on all ranks, each a file of its own: after a kill it goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from curation.approximate_pairs import ApproximatePairs, lookup_blocks
from curation.components import Components
from curation.duplicates import largest_norm
from curation.embeddings import Embeddings
from curation.neighbour_lists import neighbour_forest, query_blocks
from curation.progress import Progress
from curation.searching.faiss_index import Approximate
from curation.searching.neighbours import gpus
from curation.session import Session
from curation.similar_pairs import PairSearch, block_pairs
from curation.workspace import write_array

# The paper's list of neighbours.
LIST = 64
Work = Callable[[int], np.ndarray]  # number of a task -> edges int64 [E, 2] between rows, of the number alone


def find_groups(
    session: Session, folder: Path, vectors: Embeddings, threshold: float, k: int | None, approximate: Approximate,
    title: str,
) -> tuple[np.ndarray, dict[str, Any]]:  # fmt: skip
    """(int64 [N]: smallest row of each row's group, how it was found), by all ranks.

    As `duplicate_groups`, with the edges in files of `folder`; from `approximate.exact_below` rows on, where there is
    no GPU, an index proposes each row's neighbours. title: the stage, for the progress bar and the yaml key in errors.
    Raises NoDirection for embeddings that hold NaN or infinite values.
    """
    count = len(vectors)
    devices = gpus() if session.search_devices is None else session.search_devices
    if count >= approximate.exact_below and not devices:
        folder = folder / "indexed"  # a GPU that goes on with it is exact, and cuts other tasks
        indexed = ApproximatePairs(vectors, threshold, k or LIST, approximate, folder, f"curation.{title}.approximate")
        looked_up = lookup_blocks(count)

        def prepare() -> None:
            largest_norm(vectors)
            indexed.prepare()

        run_tasks(session, folder, len(looked_up), lambda number: indexed.forest(looked_up[number]), title, prepare)
        session.on_zero(indexed.clear)
        return read_groups(folder, len(looked_up), count), indexed.report
    work: Work
    if k is None:
        search, pairs = PairSearch(vectors, threshold, devices=devices), block_pairs(*vectors.shape)
        tasks, work = len(pairs), lambda number: search.forest(*pairs[number])
    else:
        lists, queries = k, query_blocks(count)
        tasks, work = len(queries), lambda number: neighbour_forest(vectors, threshold, lists, queries[number], devices)
    run_tasks(session, folder, tasks, work, title, lambda: largest_norm(vectors))
    return read_groups(folder, tasks, count), {}


def run_tasks(session: Session, folder: Path, count: int, work: Work, title: str, before: Callable[[], object]) -> None:
    """Runs the tasks that have no file yet, each on one of the ranks; returns when all are through.

    before: what rank 0 does first if any is missing.
    """

    # Rank 0 looks once and tells the others, else a fast rank's first task would race a slow rank's look.
    def look() -> list[int]:
        for half in folder.glob(".edges-*.tmp"):  # of a process that was killed
            half.unlink()
        missing = [number for number in range(count) if not task_file(folder, number).exists()]
        if missing:
            before()
        return missing

    todo = session.on_zero(look)
    bar = Progress(title, count, count - len(todo), "block", session.is_zero, session.world_size)
    try:
        for number in todo[session.rank :: session.world_size]:
            edges = work(number)
            small = np.uint32 if edges.max(initial=0) < 2**32 else np.int64
            write_array(task_file(folder, number), edges.astype(small))
            bar.step()
    finally:
        bar.close()
    session.barrier()


def read_groups(folder: Path, tasks: int, rows: int) -> np.ndarray:
    """int64 [rows]: smallest row of each row's group, from the edges of all tasks."""
    groups = Components(rows)
    for number in range(tasks):
        edges = np.load(task_file(folder, number)).astype(np.int64)
        groups.join(np.ascontiguousarray(edges[:, 0]), np.ascontiguousarray(edges[:, 1]))
    return groups.labels()


def task_file(folder: Path, number: int) -> Path:
    """edges-NNNNN.npy, uint32 [E, 2]."""
    return folder / f"edges-{number:05d}.npy"
