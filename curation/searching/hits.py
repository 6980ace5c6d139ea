"""What a search found: hits in files of their own, and the table of addresses made of them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.searching.neighbours import Best, Found
from curation.workspace import write_table

HITS = pa.schema([("query", pa.int32()), ("row", pa.int64()), ("similarity", pa.float32())])
FOUND = pa.schema(
    [
        ("url", pa.string()), ("caption", pa.string()), ("licence", pa.string()), ("id", pa.string()),
        ("concepts", pa.list_(pa.string())), ("similarities", pa.list_(pa.float32())),
    ]
)  # fmt: skip


def write_hits(path: Path, found: Found, first_query: int = 0, first_row: int = 0) -> None:
    """Writes the hits of consecutive queries. first_row: what the rows count from."""
    similarities, rows = found
    queries = np.repeat(np.arange(first_query, first_query + len(rows), dtype=np.int32), rows.shape[1])
    there = rows.ravel() >= 0
    columns = (queries[there], rows.ravel()[there] + first_row, similarities.ravel()[there])
    write_table(path, pa.table(dict(zip(HITS.names, columns, strict=True)), schema=HITS))


def read_hits(paths: Iterable[Path]) -> pa.Table:
    """The hits of several files as one table."""
    return pa.concat_tables([HITS.empty_table(), *(pq.read_table(path, schema=HITS) for path in paths)])


def merge_hits(best: Best, paths: Iterable[Path]) -> None:
    """Adds the hits of files to the best of all queries."""
    for path in paths:
        best.merge(to_found(pq.read_table(path), len(best.rows)))


def to_found(hits: pa.Table, queries: int) -> Found | None:
    """Hits as arrays [Q, width], padded with -inf and -1; None where there is none."""
    query, row, similarity = (hits[name].to_numpy() for name in HITS.names)
    if not len(query):
        return None
    order = np.lexsort((row, -similarity, query))
    query, row, similarity = query[order], row[order], similarity[order]
    counts = np.bincount(query, minlength=queries)
    place = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    similarities = np.full((queries, counts.max()), -np.inf, np.float32)
    rows = np.full((queries, counts.max()), -1, np.int64)
    similarities[query, place], rows[query, place] = similarity, row
    return similarities, rows


def above_floor(found: Found, best: Best) -> Found:
    """Blanks hits that cannot be among the best any more: these are never written."""
    similarities, rows = found
    hopeless = similarities < best.similarities[:, -1:]
    return np.where(hopeless, -np.inf, similarities).astype(np.float32), np.where(hopeless, -1, rows)


def is_web_address(urls: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether each is an http or https address without blanks; false for null."""
    return pc.fill_null(pc.match_substring_regex(urls, r"^(?i:https?)://[^\s/][^\s]*$"), False)


def found_table(hits: pa.Table, rows: pa.Table, concepts: list[str]) -> tuple[pa.Table, int]:
    """(FOUND: every address once, sorted, with all concepts that found it; rows dropped as no address of the web).

    hits: HITS; rows: row, url, caption, licence, id of all rows in the hits. Of several rows with one address, the one
    with the highest similarity describes it, and a concept counts once. Concepts are in falling similarity.
    """
    rows = rows.set_column(rows.schema.get_field_index("url"), "url", pc.utf8_trim_whitespace(rows["url"]))
    web = rows.filter(is_web_address(rows["url"])).sort_by("row").combine_chunks()
    query, row, similarity = (hits[name].to_numpy() for name in HITS.names)
    place = np.searchsorted(web["row"].to_numpy(), row)
    known = place < web.num_rows
    known[known] = web["row"].to_numpy()[place[known]] == row[known]
    query, similarity, place = query[known], similarity[known], place[known]
    urls = web["url"].combine_chunks().dictionary_encode()
    address = urls.indices.to_numpy()[place]
    # One entry for an address and concept, the most similar of its rows.
    order = np.lexsort((place, -similarity, query, address))
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(address[order]) != 0) | (np.diff(query[order]) != 0)
    order = order[first]
    query, similarity, place, address = query[order], similarity[order], place[order], address[order]
    order = np.lexsort((query, -similarity, address))
    query, similarity, place, address = query[order], similarity[order], place[order], address[order]
    begins = np.flatnonzero(np.diff(address, prepend=-1))
    offsets = pa.array(np.append(begins, len(address)), pa.int32())
    names = pa.array(concepts, pa.string()).take(pa.array(query, pa.int32()))
    described = web.select(["url", "caption", "licence", "id"]).take(pa.array(place[begins]))
    table = described.append_column("concepts", pa.ListArray.from_arrays(offsets, names))
    lists = pa.ListArray.from_arrays(offsets, pa.array(similarity, pa.float32()))
    table = table.append_column("similarities", lists).cast(FOUND)
    return table.sort_by("url").combine_chunks(), rows.num_rows - web.num_rows
