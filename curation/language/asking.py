"""`ask`: requests in, answers out, and only what is not stored is asked. Imports no torch."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from curation.language.answers import Naming, open_store, to_answer
from curation.language.models import Answer, LanguageModel, Request

if TYPE_CHECKING:
    from curation.session import Session


def ask(
    model: LanguageModel, requests: list[Request], *, folder: Path, session: "Session", key: str, title: str
) -> list[Answer]:
    """The answers to `requests`, in order, the same on every rank. Called by all ranks.

    Equal requests are asked once; stored answers are not asked again, failed ones are.

    Args:
        model: Whom to ask.
        requests: The same on every rank.
        folder: Of the answer store (see answers.py); may be shared by several models.
        session: The ranks: a local model answers on all, an endpoint is asked from rank 0.
        key: The model's place in the yaml, named in errors, such as curation.concepts.discover.generator.
        title: Of the progress bar.
    """

    def look() -> tuple[list[str], list[int], list[bool]]:
        """Names of all requests, the places of those to ask, and which of these failed before."""
        store = open_store(folder)
        store.refresh()
        names = [naming.id(request) for request in requests]
        first = {name: place for place, name in reversed(list(enumerate(names)))}
        missing = sorted(place for name, place in first.items() if not store.has(name))
        store.add_histories(naming, (requests[place] for place in missing))
        return names, missing, [names[place] in store.failed for place in missing]

    def collect() -> list[Answer]:
        store = open_store(folder)
        store.refresh()
        records = store.read(names)
        return [to_answer(records[name]) for name in names]

    naming = Naming(model, session.on_zero(model.identity))
    names, missing, failed = session.on_zero(look)
    todo = [requests[place] for place in missing]
    done = len(set(names)) - len(todo)
    if todo and model.endpoint is not None:
        from curation.language.endpoint import answer_remotely

        session.on_zero(lambda: answer_remotely(model, todo, naming, folder, key, title, done))
    elif todo:
        from curation.language.local import answer_locally

        new = [request for request, before in zip(todo, failed, strict=True) if not before]
        again = [request for request, before in zip(todo, failed, strict=True) if before]
        answer_locally(model, new, again, naming, folder, session, key, title, done)
    return session.on_zero(collect)


def failures(answers: list[Answer]) -> str:
    """How many answers failed and the most frequent reasons, as part of a summary; empty where none did."""
    reasons = Counter(answer.error for answer in answers if answer.finish == "failed")
    if not reasons:
        return ""
    said = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
    return f"{sum(reasons.values())} of {len(answers)} answers failed: {said}{'; ...' if len(reasons) > 3 else ''}"


def release() -> None:
    """Frees the memory of the local model that was asked last; it is kept from one call of `ask` to the next."""
    from curation.language.local import forget_model

    forget_model()
