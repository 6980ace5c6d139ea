"""Results of the runs of a W&B project: each run keeps the text of its results.json in its summary."""

import inspect
import json
import os
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

from pas_train.comparison.reading import Result
from pas_train.results import checked

SUMMARY = "results"  # the entry of a run's summary
FILTERS = {"group": "group", "tag": "tags", "sweep": "sweep"}  # what may be asked for -> the server's name of it
PAGE = 100  # runs that one answer holds
PATIENCE_S = 30


def read_project(address: str) -> list[Result]:
    """The results of a project's runs, of finished evaluations alone.

    address: ENTITY/PROJECT, or PROJECT of the default entity, with ?group=G&tag=T&sweep=S. Raises ValueError without a
    key or an answer, and FileNotFoundError where no run has results.
    """
    path, filters = _parsed(address)
    runs, found = 0, []
    for run in _runs(path, filters):
        runs += 1
        text = run.summary_metrics.get(SUMMARY)
        if isinstance(text, str):
            place = f"wandb:{path}/{run.id}"
            try:
                content = json.loads(text)
            except json.JSONDecodeError as error:
                raise ValueError(f"{place}: its results are damaged ({error}); leave it out, or send them again "
                                 "(`fit` with the same settings)") from error  # fmt: skip
            found.append(Result(place, checked(content, place), _seconds(run), dict(run.config)))
    if not found:
        told = f"none of its {runs} runs has results" if runs else "it has no such run"
        raise FileNotFoundError(
            f"wandb:{address}: {told}; `fit` sends them at its end, `wandb sync` those of offline runs"
        )
    return found


def _parsed(address: str) -> tuple[str, dict[str, Any]]:
    path, _, query = address.partition("?")
    asked = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(asked) - set(FILTERS))
    if unknown or not path or path.count("/") > 1:
        what = f"{unknown[0]} is unknown" if unknown else "the project is not named"
        raise ValueError(f"wandb:{address}: {what}; write wandb:ENTITY/PROJECT?group=G&tag=T&sweep=S")
    return path, {FILTERS[key]: {"$in": [value]} if key == "tag" else value for key, value in asked.items()}


def _runs(path: str, filters: dict[str, Any]) -> Iterator[Any]:
    """The runs with summary and config; raises ValueError for all that keeps them from being read."""
    os.environ.setdefault("WANDB_SILENT", "true")  # what it has to say is in our own messages
    try:
        import wandb
    except ImportError as error:
        raise ValueError("wandb is not installed: `pip install wandb`") from error
    # It asks for summary and config of every run alone, unless it is told not to; older ones know no such word.
    whole: dict[str, Any] = {"lazy": False} if "lazy" in inspect.signature(wandb.Api.runs).parameters else {}
    try:
        # Without a key the library would ask for one, and wait.
        key = wandb.login(prompt=False)
        if key:
            yield from wandb.Api(timeout=PATIENCE_S).runs(path, filters=filters, per_page=PAGE, **whole)
    except Exception as error:  # of whichever of its layers: the network, the server, its own process
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"wandb:{path}: the server did not give its runs ({first}): is it ENTITY/PROJECT, may the key see it, and "
            "is there a network? Results on this disk compare without it"
        ) from error
    if not key:
        raise ValueError(f"wandb:{path}: there is no key; `wandb login` stores one, or set WANDB_API_KEY")


def _seconds(run: Any) -> float:
    """When the run began."""
    return datetime.fromisoformat(str(run.created_at).replace("Z", "+00:00")).timestamp()
