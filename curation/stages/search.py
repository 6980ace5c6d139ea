"""Addresses of real images, found in published tables, a ready index, or a service."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.searching.answers import search_service
from curation.searching.embedded import EmbeddedPart, embedded_parts, find_embedding_folder, find_tables
from curation.searching.hits import found_table
from curation.searching.metadata import ROWS, Columns, MetadataFile, column_names
from curation.searching.queries import check_queries, embed_queries
from curation.searching.ready_index import ReadyIndex, index_path
from curation.searching.running import describe_hits, search_embedded, search_index
from curation.searching.service import Service
from curation.stage import Context, Stage
from curation.stages.concepts import Concepts
from curation.stages.embed import Embed, ImageText
from curation.stages.ingest import Ingest, listing
from curation.workspace import write_array, write_table
from datamodules.files import sha256_file

# Sizes as the repository's README states them.
DATACOMP = "hf download mlfoundations/datacomp_small --repo-type dataset --include '*.parquet' '*.npz' --local-dir DIR"


@dataclass(frozen=True)
class Search(Stage):
    """Addresses of the k images nearest to every concept by cosine similarity (paper section 3.2); no image is read.

    Searches one of `tables`, `index` and `service`. The embeddings must be those of `curation.embed.image_text`.

    Args:
        tables: Folder of DataComp's layout: per part an .npz of embeddings and a .parquet of addresses and texts.
        index: Folder of clip-retrieval's layout: image.index, or else img_emb/*.npy, and metadata/.
        service: A clip-retrieval service over HTTP.
        k: Images per concept (paper: 500).
        templates: Prompts, one `{}` each. The paper sends the concept itself.
        seeds: Folder of folders of pictures, named as concepts; such a concept is searched by its pictures.
        columns: Names of the columns of the table.
        embedding: Array of the .npz (DataComp: l14_img or b32_img; l14_txt or b32_txt search the texts).
        modality: Of a folder with several indexes: image or text.
        effort: Faiss's search parameters of the index, such as nprobe=64; null for those stored in it.
    """

    name: ClassVar[str] = "search"
    reads: ClassVar[tuple[str, ...]] = ("concepts",)
    keeps: ClassVar[tuple[str, ...]] = ("answers-*",)
    tables: str | None = None
    index: str | None = None
    service: Service | None = None
    k: int = 500
    templates: list[str] = field(default_factory=lambda: ["{}"])
    seeds: str | None = None
    columns: Columns = field(default_factory=Columns)
    embedding: str = "l14_img"
    modality: str = "image"
    effort: str | None = None

    def identity(self, context: Context) -> dict[str, Any]:
        """Names, sizes and times of the files that are searched, of the seed pictures, and the encoder."""
        folders = {"tables": self.tables, "index": self.index, "seeds": self.seeds}
        files = {name: listing(Path(folder)) for name, folder in folders.items() if folder and Path(folder).is_dir()}
        return {**files, "encoder": _image_text(context).identity()}

    def check(self, context: Context) -> None:
        """The source must be there, whole, and of the encoder's dimensions; a service must answer."""
        self.check_source()
        if self.k < 1:
            raise ValueError(f"curation.search.k must be at least 1, got {self.k}")
        check_queries(self.templates, self.seeds, "curation.search")
        if self.modality not in ("image", "text"):
            raise ValueError(f"curation.search.modality is {self.modality!r}; it is image or text")
        if self.service is not None:
            self.service.check()
        else:
            self._check_width(context)

    def check_source(self) -> None:
        """Raises ValueError where there is not one source, with how to get one."""
        given = [name for name in ("tables", "index", "service") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"curation.search has {' and '.join(given)}; give one of them")
        if not given:
            raise ValueError(
                "curation.search.tables is not set: the folder of a published table of addresses with CLIP embeddings, "
                "which is searched without downloading an image. DataComp's CommonPool is one, 12.8 million images in "
                f"78 GB: {DATACOMP} (datacomp_medium holds 128 million in 780 GB). Or give curation.search.index, a "
                "clip-retrieval folder of your own, or curation.search.service.url"
            )

    def _check_width(self, context: Context) -> None:
        source = self._source()
        metadata, key = _metadata(source), self._key
        self.columns.resolve(column_names(metadata[0].path), metadata[0].path, "curation.search.columns")
        width = source.open().d if isinstance(source, ReadyIndex) else source[0].width
        encoder = _image_text(context)
        dim = encoder.load().dim
        if dim != width:
            what = f"the array {self.embedding} in {self.tables}" if self.tables else str(self.index)
            raise ValueError(
                f"{key}: {what} has embeddings of {width} dimensions, but curation.embed.image_text.model "
                f"{encoder.model} makes {dim}; queries and table must be of the same model"
            )

    @property
    def _key(self) -> str:
        return f"curation.search.{'tables' if self.tables is not None else 'index'}"

    def _source(self) -> list[EmbeddedPart] | ReadyIndex:
        if self.tables is not None:
            return embedded_parts(find_tables(Path(self.tables), self._key), self.embedding, self._key)
        folder = Path(self.index or "")
        if not folder.is_dir():
            raise FileNotFoundError(f"{self._key}: {folder} is no folder; give one with {self.modality}.index")
        if index_path(folder, self.modality) is None:
            kind = "img" if self.modality == "image" else "text"
            if pairs := find_embedding_folder(folder, kind, self._key):
                return embedded_parts(pairs, None, self._key)
        return ReadyIndex(folder, self.modality, self.effort, self._key)

    def intact(self, context: Context) -> bool:
        """Whether the table of what was found is still there."""
        return (context.workspace.stage_folder(self.name) / "found.parquet").is_file()

    def run(self, context: Context) -> dict[str, Any]:
        """Writes found.parquet: url, caption, licence, id, concepts, similarities; sorted by url."""
        session, folder = context.session, context.workspace.stage_folder(self.name)
        bank = _concepts(context).bank(context)
        session.on_zero(lambda: self._write_queries(context, bank, folder / "queries.npy"))
        queries = np.load(folder / "queries.npy")
        if self.service is not None:
            return session.on_zero(lambda: self._ask(context, bank, queries))
        source = self._source()
        if isinstance(source, ReadyIndex):
            search_index(session, source, queries, self.k, folder)
        else:
            search_embedded(session, source, queries, self.k, folder)
        files, _ = describe_hits(session, _metadata(source), self.columns, "curation.search.columns", folder)

        def finish() -> dict[str, Any]:
            rows = pa.concat_tables([ROWS.empty_table(), *(pq.read_table(path) for path in files)])
            return self._finish(context, bank, pq.read_table(folder / "kept.parquet"), rows, {})

        return session.on_zero(finish)

    def _write_queries(self, context: Context, bank: list[str], path: Path) -> None:
        """float32 [concepts, D]; nothing where the service embeds the concepts itself."""
        if path.exists():
            return
        if self._by_name():
            write_array(path, np.empty((len(bank), 0), np.float32))
            return
        ingest = context.stages["ingest"]
        assert isinstance(ingest, Ingest)
        queries, pictured = embed_queries(
            _image_text(context).load(), bank, self.templates, self.seeds, ingest.limits, "curation.search"
        )
        if pictured:
            context.say(f"{self.name:<10} {pictured} of {len(bank)} concepts are searched by their pictures")
        write_array(path, queries)

    def _by_name(self) -> bool:
        """Whether a service gets the texts: it has one template to embed, and no pictures of ours."""
        return self.service is not None and self.seeds is None and len(self.templates) == 1

    def _ask(self, context: Context, bank: list[str], queries: np.ndarray) -> dict[str, Any]:
        assert self.service is not None
        asked: Sequence[str | list[float]] = [self.templates[0].replace("{}", concept) for concept in bank]
        if not self._by_name():
            asked = queries.tolist()
        folder = context.workspace.stage_folder(self.name)
        hits, rows, failed = search_service(context.session, self.service.check(), asked, self.k, folder)
        return self._finish(context, bank, hits, rows, {bank[query]: error for query, error in failed.items()})

    def _finish(
        self, context: Context, bank: list[str], hits: pa.Table, rows: pa.Table, failed: dict[str, str]
    ) -> dict[str, Any]:
        table, dropped = found_table(hits, rows, bank)
        if not table.num_rows:
            reasons = f"; the last error: {list(failed.values())[-1]}" if failed else ""
            raise ValueError(f"curation.search found no address for {len(bank)} concepts in {self._where()}{reasons}")
        folder = context.workspace.stage_folder(self.name)
        write_table(folder / "found.parquet", table)
        found = set(table["concepts"].combine_chunks().flatten().unique().to_pylist())
        nothing = [concept for concept in bank if concept not in found]
        notes = [f"{table.num_rows} addresses for {len(found)} of {len(bank)} concepts in {self._where()}"]
        notes += [f"{dropped} rows have no address of the web"] * bool(dropped)
        notes += [f"{len(failed)} queries failed; delete {folder / 'stage.json'} to ask them again"] * bool(failed)
        return {"rows": table.num_rows, "summary": "; ".join(notes), "output": sha256_file(folder / "found.parquet"),
                "nothing_found": nothing, "failed": failed}  # fmt: skip

    def _where(self) -> str:
        return self.service.base if self.service is not None else str(self.tables or self.index)


def _metadata(source: list[EmbeddedPart] | ReadyIndex) -> list[MetadataFile]:
    return source.metadata if isinstance(source, ReadyIndex) else [part.metadata for part in source]


def _concepts(context: Context) -> Concepts:
    concepts = context.stages["concepts"]
    assert isinstance(concepts, Concepts)
    return concepts


def _image_text(context: Context) -> ImageText:
    embed = context.stages["embed"]
    assert isinstance(embed, Embed)
    return embed.image_text
