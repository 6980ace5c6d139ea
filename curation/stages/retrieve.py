"""Real images by similarity to the concepts."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from curation.stage import Context, Stage
from curation.stages.concepts import Concepts
from curation.stages.embed import Embed, embed_words
from curation.workspace import write_part


@dataclass(frozen=True)
class Retrieve(Stage):
    """Top k images of every concept by cosine similarity; an image that no concept finds is `not_retrieved`.

    Args:
        k: Images per concept (paper: 500).
        templates: Prompts, one `{}` each. The paper sends the concept itself.
    """

    name: ClassVar[str] = "retrieve"
    reads: ClassVar[tuple[str, ...]] = ("embed", "concepts")
    k: int = 500
    templates: list[str] = field(default_factory=lambda: ["{}"])

    def check(self, context: Context) -> None:
        """K must be positive."""
        if self.k < 1:
            raise ValueError(f"curation.retrieve.k must be at least 1, got {self.k}; `retrieve: null` takes all images")

    def run(self, context: Context) -> dict[str, Any]:
        """Writes retrieved, concepts, similarities."""
        return context.session.on_zero(lambda: self._run(context))

    def _run(self, context: Context) -> dict[str, Any]:
        import faiss

        concepts, embed = context.stages["concepts"], context.stages["embed"]
        assert isinstance(concepts, Concepts) and isinstance(embed, Embed)
        bank = concepts.bank()
        rows, images = context.workspace.embeddings("embed", "image")
        queries = embed_words(embed.image_text.load(), bank, self.templates)
        index = faiss.IndexFlatIP(images.shape[1])
        index.add(images)
        similarities, found = index.search(queries, min(self.k, len(images)))
        # Sorted by image, then by falling similarity: each image once, with all the concepts that found it.
        image = found.ravel()
        concept = np.repeat(np.arange(len(bank)), found.shape[1])
        similarity = similarities.ravel()
        order = np.lexsort((concept, -similarity, image))
        counts = np.bincount(image, minlength=len(images))
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
        names = pa.array(bank).take(pa.array(concept[order]))
        columns = {
            "retrieved": counts > 0,
            "concepts": pa.ListArray.from_arrays(offsets, names),
            "similarities": pa.ListArray.from_arrays(offsets, pa.array(similarity[order], pa.float32())),
        }
        keys = context.workspace.index["key"].combine_chunks()
        write_part(context.workspace.stage_folder(self.name), 0, rows, keys, columns, {})
        kept = int((counts > 0).sum())
        return {"rows": len(rows), "summary": f"{kept} of {len(rows)} images found by {len(bank)} concepts"}
