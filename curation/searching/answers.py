"""The answers of a search service, kept by what was asked: a query is asked once, whatever queries come later."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.progress import Progress
from curation.searching.hits import HITS
from curation.searching.metadata import ROWS
from curation.searching.service import ANSWER, Query, Service, ask_service
from curation.session import Session
from curation.workspace import write_table
from datamodules.files import fingerprint

QUERIES_PER_FILE = 64
SCHEMA = ANSWER.insert(0, pa.field("query", pa.int32()))


def search_service(
    session: Session, service: Service, queries: Sequence[Query], k: int, folder: Path
) -> tuple[pa.Table, pa.Table, dict[int, str]]:
    """Asks a service what no file answers yet; (HITS, ROWS, query -> why it failed). For rank 0.

    Answers are written in files of some queries; a run that was stopped asks again what is in no file. A query that
    failed is asked again whenever the stage runs again.
    """
    names = _names(service, queries, k)
    files = _Files(folder)
    todo = [query for query, name in enumerate(names) if name not in files.places]
    groups = [todo[first : first + QUERIES_PER_FILE] for first in range(0, len(todo), QUERIES_PER_FILE)]
    paths = [folder / f"answers-{files.next + number:05d}.parquet" for number in range(len(groups))]
    where = {query: (number, place) for number, group in enumerate(groups) for place, query in enumerate(group)}
    answers: list[dict[int, pa.Table | str]] = [{} for _ in groups]
    bar = Progress("search", len(queries), len(queries) - len(todo), "query", session.is_zero)

    def keep(query: int, answer: pa.Table | str) -> None:
        number, place = where[query]
        answers[number][place] = answer
        bar.step()
        if len(answers[number]) == len(groups[number]):
            _write(paths[number], [names[query] for query in groups[number]], answers[number])
            answers[number].clear()

    try:
        if todo:
            ask_service(service, ((query, queries[query]) for query in todo), k, keep)
    finally:
        bar.close()
    files = _Files(folder)
    hits = files.read(names)
    rows, first = np.unique(hits["row"].to_numpy(), return_index=True)
    failed = {query: files.errors[name] for query, name in enumerate(names) if name in files.errors}
    return hits.select(HITS.names), hits.select(ROWS.names).take(pa.array(first)), failed


def _names(service: Service, queries: Sequence[Query], k: int) -> list[str]:
    """What tells every query from all others: the service, its settings, the text or embedding."""
    names, seen = [], Counter[str]()
    for query in queries:
        name = fingerprint([service.base, service.body(query, k)])
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return names


def _write(path: Path, names: list[str], answers: dict[int, pa.Table | str]) -> None:
    """The answers to queries by their places in `names`, with the names and the errors in the file's metadata."""
    tables, errors = [SCHEMA.empty_table()], {}
    for place, answer in sorted(answers.items()):
        if isinstance(answer, str):
            errors[place] = answer
        else:
            places = pa.array(np.full(answer.num_rows, place, np.int32))
            tables.append(answer.add_column(0, SCHEMA.field(0), places))
    metadata = {"queries": json.dumps(names), "errors": json.dumps(errors)}
    write_table(path, pa.concat_tables(tables).replace_schema_metadata(metadata))


@dataclass(init=False)
class _Files:
    """All files of answers. places: query -> (file, place in it); errors: query -> why nothing answers it.

    next: number of the file after the last; a kill leaves gaps, as files are finished in any order.
    """

    paths: list[Path]
    next: int
    places: dict[str, tuple[int, int]]
    errors: dict[str, str]

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("answers-*.parquet"))
        self.next = 1 + max((int(path.stem.removeprefix("answers-")) for path in self.paths), default=-1)
        self.places, self.errors = {}, {}
        for number, path in enumerate(self.paths):
            metadata = pq.read_schema(path).metadata
            errors = json.loads(metadata[b"errors"])
            for place, name in enumerate(json.loads(metadata[b"queries"])):
                if str(place) in errors:
                    self.errors[name] = errors[str(place)]
                else:
                    self.places[name] = number, place
        self.errors = {name: error for name, error in self.errors.items() if name not in self.places}

    def read(self, names: list[str]) -> pa.Table:
        """SCHEMA: the answers to these queries, `query` counting in `names`."""
        wanted: dict[int, dict[int, int]] = {}  # file -> place in it -> place in names
        for query, name in enumerate(names):
            if name in self.places:
                number, place = self.places[name]
                wanted.setdefault(number, {})[place] = query
        tables = [SCHEMA.empty_table()]
        for number, queries in sorted(wanted.items()):
            table = pq.read_table(self.paths[number]).replace_schema_metadata(None)
            query_of = np.full(max(QUERIES_PER_FILE, *queries) + 1, -1, np.int32)
            query_of[list(queries)] = list(queries.values())
            query = query_of[table["query"].to_numpy()]
            table = table.set_column(0, SCHEMA.field(0), pa.array(query)).filter(pa.array(query >= 0))
            tables.append(table)
        return pa.concat_tables(tables).combine_chunks()
