"""Captions that place every concept in a scene."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from curation.concepts.captioning import caption_key, clean_caption, clip_tokens, shorten, why_not
from curation.concepts.prompts import CAPTION, check_template, draw_seed, fill
from curation.language import Answer, LanguageModel, Request, ask, release
from curation.stage import Context, Stage
from curation.stages.concepts import Concepts
from curation.workspace import write_table
from datamodules.files import fingerprint

KEY = "curation.captions"
SCHEMA = pa.schema(
    {
        "concept": pa.string(), "number": pa.int32(), "caption": pa.string(), "model": pa.string(), "seed": pa.int64(),
        "attempts": pa.int32(), "valid": pa.bool_(), "reason": pa.string(),
    }
)  # fmt: skip


@dataclass
class Caption:
    """One caption. number: which of its concept's, from 0. seed: of the answer that it was taken from."""

    concept: str
    number: int
    model: str
    caption: str = ""
    seed: int = 0
    attempts: int = 0
    valid: bool = False
    reason: str | None = None


@dataclass(frozen=True)
class Captions(Stage):
    """Scene descriptions of every concept, one question each (paper section 3.2: T_c).

    A caption that does not name its concept, is too long for the text encoder or repeats another of its concept is
    asked for again with another seed.

    Args:
        model: Whom to ask (paper: Mixtral-8x7B).
        per_concept: N_cap (paper: 5).
        prompt: The question; may hold {concept}, {domain} and {description}.
        max_tokens: Longest caption in tokens of CLIP's vocabulary; its text encoders, Stable Diffusion's too, read 77.
        max_words: Longest caption in words; null sets no limit.
        retries: How often a caption of no use is asked for again.
        seed: Of all questions.
    """

    name: ClassVar[str] = "captions"
    reads: ClassVar[tuple[str, ...]] = ("concepts",)
    keeps: ClassVar[tuple[str, ...]] = ("answers",)
    model: LanguageModel
    per_concept: int = 5
    prompt: str = CAPTION
    max_tokens: int = 77
    max_words: int | None = None
    retries: int = 3
    seed: int = 0

    def identity(self, context: Context) -> dict[str, Any]:
        """The model, and what the prompt says of the domain."""
        return {"model": self.model.identity(), "domain": [context.domain, context.description]}

    def check(self, context: Context) -> None:
        """The settings, the prompt, and whether the model can be asked."""
        allowed = {
            "per_concept": (self.per_concept >= 1, "a number from 1 up"),
            "max_tokens": (self.max_tokens >= 8, "a number from 8 up; CLIP's text encoders read 77"),
            "max_words": (self.max_words is None or self.max_words >= 1, "a number from 1 up, or null"),
            "retries": (self.retries >= 0, "a number from 0 up"),
        }
        for name, (holds, choices) in allowed.items():
            if not holds:
                raise ValueError(f"{KEY}.{name} is {getattr(self, name)!r}; use {choices}")
        check_template("caption", self.prompt, f"{KEY}.prompt")
        if self.model.temperature == 0 and self.per_concept > 1:
            raise ValueError(
                f"{KEY}.model.temperature is 0: the {self.per_concept} captions of a concept would be the same; use "
                f"1.0 or so, or {KEY}.per_concept 1"
            )
        if "{description}" in self.prompt and not context.description:
            raise ValueError(
                f"curation.description is empty, but {KEY}.prompt names it; write the kind of the domain's concepts, "
                "such as 'bird species'"
            )
        self.model.check(f"{KEY}.model", context.session.world_size)

    def run(self, context: Context) -> dict[str, Any]:
        """Writes captions.parquet, by concept and number; those of no use too, with the reason."""
        concepts = context.stages["concepts"]
        assert isinstance(concepts, Concepts)
        bank = context.session.on_zero(lambda: concepts.bank(context))
        captions = [
            Caption(concept, number, self.model.model) for concept in bank for number in range(self.per_concept)
        ]
        try:
            self._write_all(context, captions)
        finally:
            if self.model.endpoint is None:
                release()
        valid = sum(caption.valid for caption in captions)
        if not valid:
            first = captions[0]
            raise ValueError(
                f"{KEY}: none of {len(captions)} captions can be used; the first, of {first.concept!r}, "
                f"{first.reason}: {first.caption[:200]!r}; see {KEY}.prompt and {KEY}.model"
            )
        columns = {name: [getattr(caption, name) for caption in captions] for name in SCHEMA.names}
        path = context.workspace.stage_folder(self.name) / "captions.parquet"
        context.session.on_zero(lambda: write_table(path, pa.table(columns, schema=SCHEMA)))
        reasons = Counter(str(caption.reason).split(":")[0] for caption in captions if not caption.valid)
        useless = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        without = len(bank) - len({caption.concept for caption in captions if caption.valid})
        summary = f"{valid} captions of {len(bank) - without} concepts" + (f"; of no use: {useless}" if useless else "")
        output = fingerprint([(caption.concept, caption.caption) for caption in captions if caption.valid])
        return {"rows": len(captions), "summary": summary, "output": output, "valid": valid, "reasons": dict(reasons),
                "concepts_without": without}  # fmt: skip

    def _write_all(self, context: Context, captions: list[Caption]) -> None:
        """Asks for all captions, and again for those of no use."""
        taken: dict[str, set[str]] = {}  # concept -> keys of its captions, so that none depends on other concepts
        for attempt in range(self.retries + 1):
            pending = [caption for caption in captions if not caption.valid]
            if not pending:
                return
            requests = [self._request(context, caption, attempt) for caption in pending]
            answers = ask(
                self.model, requests, folder=context.workspace.stage_folder(self.name) / "answers",
                session=context.session, key=f"{KEY}.model", title=self.name,
            )  # fmt: skip
            if attempt == 0:
                self._raise_if_none(answers)
            for caption, request, answer in zip(pending, requests, answers, strict=True):
                self._judge(caption, request, answer, taken.setdefault(caption.concept, set()))
                caption.attempts = attempt + 1

    def _request(self, context: Context, caption: Caption, attempt: int) -> Request:
        prompt = fill(self.prompt, domain=context.domain, description=context.description, concept=caption.concept)
        return Request(prompt, draw_seed(self.seed, caption.concept, caption.number, attempt))

    def _raise_if_none(self, answers: list[Answer]) -> None:
        failed = [answer for answer in answers if answer.finish == "failed"]
        if len(failed) == len(answers):
            raise ValueError(f"{KEY}.model: none of {len(answers)} questions was answered ({failed[0].error})")

    def _judge(self, caption: Caption, request: Request, answer: Answer, earlier: set[str]) -> None:
        caption.caption, caption.seed = shorten(clean_caption(answer.text, answer.finish), self._fits), request.seed
        caption.reason = why_not(caption.caption, caption.concept, earlier, self._fits)
        if answer.finish == "failed":
            caption.reason = f"no answer: {answer.error}"
        caption.valid = caption.reason is None
        if caption.valid:
            earlier.add(caption_key(caption.caption))
        caption.caption = caption.caption[:2000]  # of those of no use, enough to see why

    def _fits(self, caption: str) -> bool:
        words_fit = self.max_words is None or len(caption.split()) <= self.max_words
        return words_fit and len(caption) <= 20 * self.max_tokens and clip_tokens(caption) <= self.max_tokens
