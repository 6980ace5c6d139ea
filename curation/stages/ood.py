"""Three scores that say how far an image is from the domain."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from curation.encoders import ImageTextEncoder, embed_words
from curation.ood import best_concept, ood_scores
from curation.packaged import resolve
from curation.stage import Context, Stage, identify_files
from curation.stages.concepts import Concepts
from curation.stages.embed import Embed, ImageText
from curation.stages.rows import alive
from curation.workspace import write_part


@dataclass(frozen=True)
class Ood(Stage):
    """CLIPN's out-of-domain scores against the bank, the general bank, and with the text blurred (paper section 3.3).

    Args:
        rule: atd (the paper's formula) or ctw (its appendix's name).
        no_branch: File of CLIPN's `no` text tower; null takes the one beside the image-text model.
        templates: Prompts, one `{}` each; embeddings are ensembled over them.
        logit_scale: Factor of the cosines (CLIPN: 100).
    """

    name: ClassVar[str] = "ood"
    reads: ClassVar[tuple[str, ...]] = ("embed", "concepts", "retrieve", "leakage", "duplicates", "text")
    rule: str = "atd"
    no_branch: str | None = None
    templates: list[str] = field(default_factory=lambda: ["a photo of a {}."])
    logit_scale: float = 100.0

    def identity(self, context: Context) -> dict[str, Any]:
        """Checksum of the `no` branch."""
        beside = self._settings(context).no_branch()
        return {"no_branch": identify_files(resolve(self.no_branch) if self.no_branch else beside)}

    def check(self, context: Context) -> None:
        """The encoder must have a `no` branch: a copy of the yes branch would score every image 0.5."""
        if self.rule not in ("atd", "ctw"):
            raise ValueError(f"curation.ood.rule must be atd or ctw, got {self.rule!r}")
        for template in self.templates:
            if template.count("{}") != 1:
                raise ValueError(f"curation.ood.templates: {template!r} must hold exactly one {{}}")
        embed_words(self._encoder(context), [context.domain], self.templates[:1], no=True)

    def _settings(self, context: Context) -> ImageText:
        embed = context.stages["embed"]
        assert isinstance(embed, Embed)
        return embed.clipn or embed.image_text

    def _encoder(self, context: Context) -> ImageTextEncoder:
        settings, embed = self._settings(context), context.stages["embed"]
        own = isinstance(embed, Embed) and settings is embed.clipn
        return settings.load(self.no_branch, f"curation.embed.{'clipn' if own else 'image_text'}")

    def run(self, context: Context) -> dict[str, Any]:
        """Writes ood, ood_general, text_gap, concept, concept_similarity; higher = more out of domain."""
        return context.session.on_zero(lambda: self._run(context))

    def _run(self, context: Context) -> dict[str, Any]:
        concepts, embed = context.stages["concepts"], context.stages["embed"]
        assert isinstance(concepts, Concepts) and isinstance(embed, Embed)
        workspace, encoder = context.workspace, self._encoder(context)
        rows, stored = workspace.embeddings("embed", "clipn" if embed.clipn else "image")
        kept = np.isin(rows, alive(context, "retrieve", "leakage", "duplicates"), assume_unique=True)
        rows, images = rows[kept], stored[kept]

        def score(images: np.ndarray, words: list[str]) -> np.ndarray:
            yes, no = (embed_words(encoder, words, self.templates, no=branch) for branch in (False, True))
            return ood_scores(images, yes, no, self.logit_scale, self.rule)

        bank = concepts.bank(context)
        ood, general = score(images, bank), score(images, concepts.general_bank(context))
        gap = np.zeros_like(ood)  # an image without text is its own blurred copy
        if "text" in context.stages:
            written, blurred = workspace.embeddings("text", "blurred")
            places = np.searchsorted(rows, written)
            if len(written):
                gap[places] = score(blurred[:], bank) - ood[places]
        best, similarity = best_concept(images, embed_words(encoder, bank, self.templates))
        columns = {"ood": ood, "ood_general": general, "text_gap": gap,
                   "concept": np.asarray(bank, dtype=object)[best], "concept_similarity": similarity}  # fmt: skip
        write_part(workspace.stage_folder(self.name), 0, rows, workspace.index["key"].combine_chunks(), columns, {})
        median = f", median {float(np.median(ood)):.3f}" if len(rows) else ""
        return {"rows": len(rows), "summary": f"{len(rows)} images scored{median}"}
