"""Searching embeddings and indexes on all ranks, in files that a stopped run goes on from."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.progress import Progress
from curation.searching.embedded import EmbeddedPart
from curation.searching.hits import above_floor, merge_hits, read_hits, write_hits
from curation.searching.metadata import Columns, MetadataFile
from curation.searching.neighbours import Best, top_k
from curation.searching.ready_index import ReadyIndex, search
from curation.session import Session
from curation.workspace import write_table

QUERIES_PER_FILE = 256


def search_embedded(session: Session, parts: Sequence[EmbeddedPart], queries: np.ndarray, k: int, folder: Path) -> None:
    """Exact top k over all parts, each searched by one rank and written as one file of hits.

    A part's file leaves out what is worse than the k best of the parts that its rank has seen, so that the files stay
    small; the best of all files are the best of all parts, whichever rank searched what.
    """
    files = {number: folder / f"hits-{number:05d}.parquet" for number in range(len(parts))}
    best = Best(len(queries), k)
    todo = _todo(session, files)
    merge_hits(best, [path for number, path in files.items() if number not in todo])
    for number in _each_of_mine(session, todo, len(parts), "part"):
        found = top_k(queries, parts[number].blocks(), k, devices=session.search_devices)
        similarities, rows = above_floor(found, best)
        rows = np.where(rows < 0, -1, rows + parts[number].metadata.first)
        best.merge((similarities, rows))
        write_hits(files[number], (similarities, rows))
    session.barrier()

    def keep() -> None:
        total = Best(len(queries), k)
        merge_hits(total, files.values())
        write_hits(folder / "kept.parquet", (total.similarities, total.rows))

    session.on_zero(keep)


def search_index(session: Session, index: ReadyIndex, queries: np.ndarray, k: int, folder: Path) -> None:
    """Top k of a faiss index, for a block of queries at a time."""
    starts = range(0, len(queries), QUERIES_PER_FILE)
    files = {number: folder / f"hits-{number:05d}.parquet" for number in range(len(starts))}
    if todo := _todo(session, files):
        opened = index.open()
        for number in _each_of_mine(session, todo, len(files), "block"):
            first = starts[number]
            found = search(opened, queries[first : first + QUERIES_PER_FILE], k)
            write_hits(files[number], found, first_query=first)
    session.barrier()
    session.on_zero(lambda: write_table(folder / "kept.parquet", read_hits(files.values())))


def describe_hits(
    session: Session, metadata: Sequence[MetadataFile], columns: Columns, key: str, folder: Path
) -> tuple[list[Path], int]:
    """Writes what the tables say of the rows that were kept, a file for each of theirs; (files, rows)."""
    rows = pc.unique(pq.read_table(folder / "kept.parquet", columns=["row"])["row"]).to_numpy()
    rows = np.sort(rows)
    slices = {
        number: rows[np.searchsorted(rows, file.first) : np.searchsorted(rows, file.first + file.rows)]
        for number, file in enumerate(metadata)
    }
    files = {number: folder / f"rows-{number:05d}.parquet" for number, inside in slices.items() if len(inside)}
    for number in _each_of_mine(session, _todo(session, files), len(files), "table"):
        write_table(files[number], metadata[number].take(slices[number], columns, key))
    session.barrier()
    return list(files.values()), len(rows)


def _todo(session: Session, files: dict[int, Path]) -> list[int]:
    """Numbers of the files that are missing; rank 0 looks once for all."""
    return session.broadcast([number for number, path in files.items() if not path.exists()] if session.is_zero else [])


def _each_of_mine(session: Session, todo: list[int], total: int, unit: str) -> Iterator[int]:
    """This rank's share of what is to be done, shown on rank 0."""
    mine = todo[session.rank :: session.world_size]
    bar = Progress("search", total, total - len(todo), unit, session.is_zero, session.world_size)
    for number in mine:
        yield number
        bar.step()
    bar.close()
