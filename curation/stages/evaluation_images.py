"""Images that are no part of the pool, embedded by the copy descriptor in a small workspace of their own."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from curation.embeddings import Embeddings
from curation.evaluation_sets import KEY, index_set, origins
from curation.image_encoder import ImageEncoder
from curation.images import ImageReader
from curation.leakage import NotFinite, blocks
from curation.prediction import Loop
from curation.stage import Context
from curation.stages.embed import Embed, embed_rows
from curation.stages.ingest import look_at_rows
from curation.workspace import Workspace
from datamodules.labelled import LIMITS


def embed_sets(
    context: Context, folder: Path, sets: Mapping[str, str | Path], batch_size: int, key: str = KEY
) -> Workspace:
    """Embeds the images of some sets (name -> path or data set) on all ranks; goes on with what is in the folder.

    Whatever can be decoded counts, as in an evaluation: the limits of ingest are for the pool. key: the yaml key of
    the sets. Raises ValueError where no image of a set can be decoded: nothing would be screened, and nobody see it.
    """
    space = Workspace(folder)

    def index() -> None:
        indexed = {name: index_set(name, path, folder / "exported", key) for name, path in sets.items()}
        tables = [table.replace_schema_metadata(None) for table, _ in indexed.values()]
        space.write_index(pa.concat_tables(tables), {name: place for name, (_, place) in indexed.items()})
        (space.index_folder / "stage.json").write_text("{}")

    def finish(stage: str) -> None:
        context.session.on_zero(lambda: (space.stage_folder(stage) / "stage.json").write_text("{}"))

    context.session.on_zero(index)
    embed = context.stages["embed"]
    assert isinstance(embed, Embed)
    reader = ImageReader(space.index, space.roots, LIMITS)
    keys = space.index["key"].combine_chunks()
    loop = Loop(embed.chunk_rows, batch_size, embed.num_workers)
    look_at_rows(context, reader, folder.name, space.stage_folder("ingest"), keys, loop)
    finish("ingest")
    readable = space.rows_where("ingest", "readable")
    for name, path in sets.items():
        own = np.asarray(space.index["root"]) == name
        if not readable[own].any():
            raise ValueError(f"{key}: none of the {own.sum()} images of '{name}' ({path}) can be decoded; repair them "
                             "or take the set out")  # fmt: skip
    rows = np.flatnonzero(readable)
    encoder: dict[str, ImageEncoder] = {"copy": embed.copy.load()}
    embed_rows(context, encoder, reader, rows, folder.name, space.stage_folder("embed"), keys, loop)
    finish("embed")
    return space


def embedded(space: Workspace, key: str = KEY) -> tuple[pa.Array, Embeddings]:
    """(NAME/KEY, vectors) of the images that could be decoded. Raises ValueError for a vector that is not finite."""
    rows, vectors = space.embeddings("embed", "copy")
    names = origins(space.index).take(pa.array(rows))
    try:
        for _ in blocks(vectors, 4096, "vectors"):
            pass
    except NotFinite as error:
        raise ValueError(
            f"{key}: the embedding of {names[error.row]} holds NaN or infinite values; look at the image, at the "
            "weights of curation.embed.copy, or use curation.precision 32-true"
        ) from error
    return names, vectors
