"""Three scores that say how far an image is from the domain."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from curation.embeddings import Embeddings
from curation.encoders import ImageTextEncoder, embed_words
from curation.ood import RULES, NotFiniteError, score_images
from curation.packaged import resolve
from curation.searching.neighbours import gpus
from curation.stage import Context, Stage, identify_files
from curation.stages.concepts import Concepts
from curation.stages.embed import Embed, ImageText
from curation.stages.rows import alive
from curation.templates import read_templates
from curation.text_features import TextFeatures
from curation.workspace import write_part

FEATURES = "text_features"
FAR = 0.9  # a median score that a bank of other things, or an encoder that does not know its words, gives


@dataclass(frozen=True)
class Ood(Stage):
    """CLIPN's out-of-domain scores against the bank, the general bank, and with the text blurred (paper section 3.3).

    Args:
        rule: atd (the paper's formula) or ctw (its appendix's name).
        no_branch: File of CLIPN's `no` text tower, alone or in a whole checkpoint; null takes that of
            curation.embed.clipn.pretrained, or the one beside the image-text model.
        templates: Prompts over which a concept's embeddings are ensembled: clipn (the 128 of CLIPN's code, with the
            quotes around them), clipn_clean (without), openai (80), single ("a photo of a {}."), or a list, one `{}`
            each.
        logit_scale: Factor of the cosines (CLIPN: 100).
    """

    name: ClassVar[str] = "ood"
    reads: ClassVar[tuple[str, ...]] = ("identical", "embed", "concepts", "retrieve", "leakage", "duplicates", "text")
    keeps: ClassVar[tuple[str, ...]] = (FEATURES,)
    rule: str = "atd"
    no_branch: str | None = None
    templates: list[str] | str = "single"
    logit_scale: float = 100.0

    def identity(self, context: Context) -> dict[str, Any]:
        """Checksum of the `no` branch."""
        beside = self._settings(context).no_branch()
        return {"no_branch": identify_files(resolve(self.no_branch) if self.no_branch else beside)}

    def check(self, context: Context) -> None:
        """The encoder must have a `no` branch: a copy of the yes branch would score every image 0.5."""
        if self.rule not in RULES:
            raise ValueError(f"curation.ood.rule must be atd or ctw, got {self.rule!r}")
        if self.logit_scale <= 0:
            raise ValueError(f"curation.ood.logit_scale must be positive, got {self.logit_scale}")
        embed_words(self._encoder(context), [context.domain], self._templates()[:1], no=True)

    def _templates(self) -> list[str]:
        return read_templates(self.templates, "curation.ood.templates")

    def _settings(self, context: Context) -> ImageText:
        embed = context.stages["embed"]
        assert isinstance(embed, Embed)
        return embed.clipn or embed.image_text

    def _encoder(self, context: Context) -> ImageTextEncoder:
        settings, embed = self._settings(context), context.stages["embed"]
        own = isinstance(embed, Embed) and settings is embed.clipn
        return settings.load(self.no_branch, f"curation.embed.{'clipn' if own else 'image_text'}")

    def run(self, context: Context) -> dict[str, Any]:
        """Writes ood, ood_general, text_gap, concept, concept_similarity; higher = more out of domain.

        The concepts are embedded on all ranks and kept in text_features/; the scores are rank 0's.
        """
        session, concepts = context.session, context.stages["concepts"]
        assert isinstance(concepts, Concepts)
        features = self._features(context)
        bank, general = session.on_zero(lambda: (concepts.bank(context), concepts.general_bank(context)))
        missing = session.on_zero(lambda: features.missing([*bank, *general]))
        if missing:
            features.embed(session, self._encoder(context), missing, self._templates())
        return session.on_zero(lambda: self._score(context, features, bank, general))

    def _features(self, context: Context) -> TextFeatures:
        settings = self._settings(context)
        model = settings.identity()
        # A folder's files hold all of the model; beside a file of weights the architecture decides, such as its GELU.
        folder = Path(resolve(settings.model).removeprefix("local-dir:")).is_dir()
        weights = model["files"] if folder else [model["name"], model["files"] or model["pretrained"]]
        identity = {"weights": weights, **self.identity(context), "templates": self._templates(),
                    "precision": context.session.precision}  # fmt: skip
        return TextFeatures(context.workspace.stage_folder(self.name) / FEATURES, identity)

    def _score(self, context: Context, features: TextFeatures, bank: list[str], general: list[str]) -> dict[str, Any]:
        embed, workspace = context.stages["embed"], context.workspace
        assert isinstance(embed, Embed)
        name = "clipn" if embed.clipn else "image"
        rows, images = workspace.embeddings("embed", name)
        kept = np.isin(rows, alive(context, "retrieve", "leakage", "duplicates"), assume_unique=True)
        rows, images = rows[kept], images.take(kept)
        texts = features.read(bank)
        ood, best, similarity = self._scores(context, "embed", rows, images, texts)
        general_ood = self._scores(context, "embed", rows, images, features.read(general))[0]
        gap = np.zeros_like(ood)  # an image without text is its own blurred copy
        if "text" in context.stages:
            written, blurred = workspace.embeddings("text", "blurred")
            if len(written):
                places = np.searchsorted(rows, written)
                gap[places] = self._scores(context, "text", written, blurred, texts)[0] - ood[places]
        columns = {"ood": ood, "ood_general": general_ood, "text_gap": gap,
                   "concept": pa.array(bank).take(pa.array(best)), "concept_similarity": similarity}  # fmt: skip
        write_part(workspace.stage_folder(self.name), 0, rows, workspace.index["key"].combine_chunks(), columns, {})
        median = f", median {float(np.median(ood)):.3f}" if len(rows) else ""
        if len(rows) and float(np.median(ood)) > FAR:
            median += ": most images are far from the bank; are these the concepts of the pool, and of this encoder?"
        return {"rows": len(rows), "summary": f"{len(rows)} images scored{median}"}

    def _scores(
        self, context: Context, stage: str, rows: np.ndarray, images: Embeddings, texts: tuple[np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        devices = context.session.search_devices
        device = next(iter(gpus() if devices is None else devices), "cpu")
        try:
            return score_images(images, *texts, self.logit_scale, self.rule, device)
        except NotFiniteError as error:
            row = int(rows[error.row])
            key = context.workspace.index["key"][row].as_py()
            folder = context.workspace.stage_folder(stage)
            raise ValueError(
                f"the embedding of {key} (row {row}) in {folder} holds NaN or infinite values: a damaged file, or the "
                f"model overflowed. Delete {folder} and run again, with curation.precision 32-true if it was another"
            ) from error
