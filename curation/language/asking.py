"""`ask`: requests in, answers out, and only what is not stored is asked."""

from pathlib import Path

from curation.language.models import Answer, LanguageModel, Request
from curation.session import Session


def ask(
    model: LanguageModel, requests: list[Request], *, folder: Path, session: Session, key: str, title: str,
    max_calls: int | None = None,
) -> list[Answer]:  # fmt: skip
    """The answers to `requests`, in order, the same on every rank. Called by all ranks.

    Equal requests are asked once, stored answers are not asked again; failed ones are.

    Args:
        model: Whom to ask.
        requests: The same on every rank.
        folder: Of the answer store (see answers.py); may be shared by several models.
        session: The ranks: a local model answers on all, an endpoint is asked from rank 0.
        key: The model's place in the yaml, named in errors, such as curation.concepts.discover.generator.
        title: Of the progress bar.
        max_calls: At most so many requests are asked; the others come back as failed and are not stored.
    """
    raise NotImplementedError


def release() -> None:
    """Frees the memory of the local model that was asked last (it is kept between calls of `ask`)."""
    raise NotImplementedError
