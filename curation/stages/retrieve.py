"""Real images by similarity to the concepts."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.searching.faiss_index import Approximate, find_neighbours
from curation.searching.queries import check_queries, embed_queries
from curation.stage import Context, Stage
from curation.stages.concepts import Concepts
from curation.stages.embed import Embed
from curation.stages.ingest import Ingest, listing
from curation.stages.rows import alive
from curation.workspace import write_part

SCHEMA = pa.schema(
    [
        ("row", pa.int64()), ("retrieved", pa.bool_()), ("concepts", pa.list_(pa.string())),
        ("similarities", pa.list_(pa.float32())),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Retrieve(Stage):
    """Which concepts found an image; an image that none found is `not_retrieved`.

    Of the pool, the top k images of every concept by cosine similarity. A fetched image keeps the concepts of the
    search that found its address, a generated one the concept that it was made for.

    Args:
        k: Images of the pool per concept (paper: 500); null takes the whole pool.
        templates: Prompts, one `{}` each. The paper sends the concept itself.
        seeds: Folder of folders of pictures, named as concepts; such a concept is searched by its pictures.
        approximate: When and how a large pool is searched by an index instead of exactly.
    """

    name: ClassVar[str] = "retrieve"
    reads: ClassVar[tuple[str, ...]] = ("identical", "embed", "concepts", "search")
    k: int | None = 500
    templates: list[str] = field(default_factory=lambda: ["{}"])
    seeds: str | None = None
    approximate: Approximate = field(default_factory=Approximate)

    def identity(self, context: Context) -> dict[str, Any]:
        """Names, sizes and times of the seed pictures."""
        return {"seeds": listing(Path(self.seeds))} if self.seeds and Path(self.seeds).is_dir() else {}

    def check(self, context: Context) -> None:
        """K must be positive, and the seed pictures be there."""
        if self.k is not None and self.k < 1:
            raise ValueError(f"curation.retrieve.k must be at least 1, got {self.k}; `retrieve: null` takes all images")
        self.approximate.check("curation.retrieve.approximate")
        check_queries(self.templates, self.seeds, "curation.retrieve")

    def run(self, context: Context) -> dict[str, Any]:
        """Writes retrieved, concepts, similarities."""
        return context.session.on_zero(lambda: self._run(context))

    def _run(self, context: Context) -> dict[str, Any]:
        index, rows = context.workspace.index, alive(context)
        synthetic = pc.equal(index["source"], "synthetic").to_numpy()[rows]
        fetched = pc.equal(index["root"], "fetched").to_numpy()[rows]
        if "search" not in context.stages:  # a table of addresses that no concept was asked for
            fetched[:] = False
        ranked, how = self._ranked(context, rows[~synthetic & ~fetched])
        tables = [_made(index, rows[synthetic]), _searched(context, rows[fetched]), ranked]
        table = pa.concat_tables(tables).sort_by("row").combine_chunks()
        columns = {name: table[name].combine_chunks() for name in SCHEMA.names[1:]}
        keys = index["key"].combine_chunks()
        write_part(context.workspace.stage_folder(self.name), 0, table["row"].to_numpy(), keys, columns, {})
        kept = pc.sum(table["retrieved"]).as_py() or 0
        summary = f"{kept} of {len(rows)} images belong to a concept"
        if how.get("index"):
            summary += f" (by {how['index']}, which finds {100 * how['recall']:.1f} % of the exact nearest)"
        return {"rows": len(rows), "summary": summary, **how}

    def _ranked(self, context: Context, rows: np.ndarray) -> tuple[pa.Table, dict[str, Any]]:
        """The pool's images with the concepts that have them among their k nearest, most similar first; and how."""
        concepts, embed, ingest = (context.stages[name] for name in ("concepts", "embed", "ingest"))
        assert isinstance(concepts, Concepts) and isinstance(embed, Embed) and isinstance(ingest, Ingest)
        if self.k is None or not len(rows):
            empty = pa.ListArray.from_arrays(pa.array(np.zeros(len(rows) + 1), pa.int32()), pa.array([], pa.string()))
            return _table(rows, np.ones(len(rows), bool), empty, empty.cast(pa.list_(pa.float32()))), {}
        bank = concepts.bank(context)
        queries, pictured = embed_queries(
            embed.image_text.load(), bank, self.templates, self.seeds, ingest.limits, "curation.retrieve"
        )
        if pictured:
            context.say(f"{self.name:<10} {pictured} of {len(bank)} concepts are searched by their pictures")
        (similarities, found), how = find_neighbours(
            queries, lambda: _only(context, rows), len(rows), min(self.k, len(rows)), self.approximate,
            context.workspace.stage_folder(self.name), "curation.retrieve.approximate",
            context.session.search_devices,
        )  # fmt: skip
        # Sorted by image, then by falling similarity: each image once, with all the concepts that found it.
        concept, place = np.nonzero(found >= 0)
        image, similarity = found[concept, place], similarities[concept, place]
        order = np.lexsort((concept, -similarity, image))
        counts = np.bincount(image, minlength=len(rows))
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
        names = pa.ListArray.from_arrays(offsets, pa.array(bank).take(pa.array(concept[order])))
        values = pa.ListArray.from_arrays(offsets, pa.array(similarity[order], pa.float32()))
        return _table(rows, counts > 0, names, values), how


def _only(context: Context, rows: np.ndarray) -> Iterator[np.ndarray]:
    """The image embeddings of some rows, part by part, in the order of the rows."""
    for own, part in context.workspace.embedding_parts("embed", "image"):
        kept = np.isin(own, rows, assume_unique=True)
        if kept.any():
            yield part if kept.all() else part[kept]


def _made(index: pa.Table, rows: np.ndarray) -> pa.Table:
    """Generated images, each with the concept that its caption was written for."""
    concept = index["made_for"].combine_chunks().take(pa.array(rows))
    offsets = pa.array(np.arange(len(rows) + 1), pa.int32())
    nothing = pa.ListArray.from_arrays(offsets, pa.nulls(len(rows), pa.float32()))
    return _table(rows, np.ones(len(rows), bool), pa.ListArray.from_arrays(offsets, concept), nothing)


def _searched(context: Context, rows: np.ndarray) -> pa.Table:
    """Fetched images with what the search says of their addresses; not retrieved where it no longer finds them."""
    if not len(rows):
        return SCHEMA.empty_table()
    path = context.workspace.stage_folder("search") / "found.parquet"
    found = pq.read_table(path, columns=["url", "concepts", "similarities"]).combine_chunks()
    urls = context.workspace.index["url"].combine_chunks().take(pa.array(rows))
    places = pc.index_in(urls, value_set=found["url"].combine_chunks())
    concepts, similarities = (found[name].combine_chunks().take(places) for name in ("concepts", "similarities"))
    return _table(rows, pc.is_valid(places), concepts, similarities)


def _table(rows: np.ndarray, retrieved: Any, concepts: pa.Array, similarities: pa.Array) -> pa.Table:
    return pa.table([pa.array(rows), pa.array(retrieved), concepts, similarities], names=SCHEMA.names).cast(SCHEMA)
