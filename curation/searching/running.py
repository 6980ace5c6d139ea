"""The three ways of searching, each in files of its own that a stopped run goes on from."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from curation.searching.embedded import EmbeddedPart
from curation.searching.hits import HITS, above_floor, merge_hits, read_hits, write_hits
from curation.searching.metadata import Columns, MetadataFile
from curation.searching.neighbours import Best, top_k
from curation.searching.ready_index import ReadyIndex, search
from curation.searching.service import ANSWER, Service, ask_service
from curation.session import Session
from curation.workspace import write_table

QUERIES_PER_FILE = 256
ANSWERS_PER_FILE = 64


def search_embedded(session: Session, parts: Sequence[EmbeddedPart], queries: np.ndarray, k: int, folder: Path) -> None:
    """Exact top k over all parts, each searched by one rank and written as one file of hits.

    A part's file leaves out what is worse than the k best of the parts that its rank has seen, so that the files stay
    small; the best of all files are the best of all parts, whichever rank searched what.
    """
    files = {number: folder / f"hits-{number:05d}.parquet" for number in range(len(parts))}
    best = Best(len(queries), k)
    todo = _todo(session, files)
    merge_hits(best, [path for number, path in files.items() if number not in todo])
    devices: list[str] | None = [] if session.accelerator == "cpu" else None
    for number in _progress(session, todo, len(parts), "part"):
        found = top_k(queries, parts[number].blocks(), k, devices=devices)
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
        for number in _progress(session, todo, len(files), "block"):
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
    for number in _progress(session, _todo(session, files), len(files), "table"):
        write_table(files[number], metadata[number].take(slices[number], columns, key))
    session.barrier()
    return list(files.values()), len(rows)


def search_service(
    session: Session, service: Service, queries: Sequence[str | list[float]], k: int, folder: Path
) -> tuple[pa.Table, pa.Table, dict[int, str]]:
    """Asks a service from rank 0; (HITS, rows as metadata describes them, query -> why it failed) on rank 0.

    Answers are written in blocks of queries; what a stopped run had asked beyond its whole blocks is asked again.
    """
    starts = range(0, len(queries), ANSWERS_PER_FILE)
    files = {number: folder / f"answers-{number:05d}.parquet" for number in range(len(starts))}
    todo = {number for number, path in files.items() if not path.exists()}
    blocks: dict[int, dict[int, pa.Table]] = {number: {} for number in todo}
    errors: dict[int, dict[int, str]] = {number: {} for number in todo}
    asked = [query for query in range(len(queries)) if query // ANSWERS_PER_FILE in todo]
    bar = _bar(session, len(queries), len(queries) - len(asked), "query")

    def keep(query: int, answer: pa.Table | None, error: str | None) -> None:
        number = query // ANSWERS_PER_FILE
        if error is not None:
            errors[number][query] = error
        blocks[number][query] = ANSWER.empty_table() if answer is None else answer
        bar.update()
        if len(blocks[number]) == min(ANSWERS_PER_FILE, len(queries) - starts[number]):
            _write_answers(files[number], blocks.pop(number), errors.pop(number))

    try:
        if asked:
            ask_service(service, iter([(query, queries[query]) for query in asked]), k, keep)
    finally:
        bar.close()
    tables = [pq.read_table(path) for path in files.values()]
    failed = {int(query): error for table in tables for query, error in _errors(table).items()}
    answers = pa.concat_tables([table.replace_schema_metadata(None) for table in tables]).combine_chunks()
    return answers.select(HITS.names), _first_of_each(answers), failed


def _write_answers(path: Path, answers: dict[int, pa.Table], errors: dict[int, str]) -> None:
    numbered = [
        answers[query].add_column(
            0, pa.field("query", pa.int32()), pa.array([query] * answers[query].num_rows, pa.int32())
        )
        for query in sorted(answers)
    ]
    write_table(path, pa.concat_tables(numbered).replace_schema_metadata({"errors": json.dumps(errors)}))


def _errors(table: pa.Table) -> dict[str, str]:
    return dict(json.loads((table.schema.metadata or {}).get(b"errors", b"{}")))


def _first_of_each(answers: pa.Table) -> pa.Table:
    """row, url, caption, licence, id of every row once."""
    rows, first = np.unique(answers["row"].to_numpy(), return_index=True)
    return answers.select(["row", "url", "caption", "licence", "id"]).take(pa.array(first))


def _todo(session: Session, files: dict[int, Path]) -> list[int]:
    """Numbers of the files that are missing; rank 0 looks once for all."""
    return session.broadcast([number for number, path in files.items() if not path.exists()] if session.is_zero else [])


def _progress(session: Session, todo: list[int], total: int, unit: str) -> Iterator[int]:
    """This rank's share of what is to be done, shown on rank 0."""
    mine = todo[session.rank :: session.world_size]
    bar = _bar(session, total, total - len(todo), unit)
    for number in mine:
        yield number
        bar.update(min(session.world_size, total - bar.n))
    bar.close()


def _bar(session: Session, total: int, done: int, unit: str) -> Any:
    quiet = not sys.stderr.isatty()
    return tqdm(
        total=total, initial=done, desc=f"{'search':<10}", unit=unit, disable=not session.is_zero, leave=False,
        mininterval=30.0 if quiet else 0.2, delay=30.0 if quiet else 0.3, dynamic_ncols=True,
    )  # fmt: skip
