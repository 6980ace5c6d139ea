"""What must be alike before figures stand in one column, and what may not stand there at all."""

from collections.abc import Iterable, Sequence
from typing import Any

from pas_train.comparison.reading import Result, flat
from pas_train.comparison.rows import Draw

OUTSIDE = "only sets that were curated here are"
SHOWN = 3  # runs that a message names for each value
WORDS = {"train": "the training images", "test": "the test images", "classes": "the number of classes"}
ADVICE = (
    "Figures like these must not stand side by side. Evaluate again with the same settings, leave runs out, name one "
    "file of a run (RUN/results.json is that of `fit`), or choose what to show with --data-set and --protocol"
)


def chosen(draws: Iterable[Draw], data_sets: Sequence[str], names: Sequence[str]) -> list[Draw]:
    """The draws with the figures of these data sets and protocols alone (of all, where none is named).

    names: of figures; fewshot stands for fewshot1, fewshot5 and so on.

    Raises ValueError for a name that no result has.
    """
    draws = list(draws)
    known = {
             "--data-set": dict.fromkeys(data_set for draw in draws for data_set in draw.figures),
             "--protocol": dict.fromkeys(name for draw in draws for part in draw.figures.values() for name in part),
    }  # fmt: skip
    whole = {name: [one for one in known["--protocol"] if one.rstrip("0123456789") == name] for name in names}
    names = [one for name in names for one in ([name] if name in known["--protocol"] else whole[name] or [name])]
    for option, wanted in (("--data-set", data_sets), ("--protocol", names)):
        unknown = [name for name in wanted if name not in known[option]]
        if unknown:
            raise ValueError(f"{option} {' '.join(unknown)} is in no result; there are {', '.join(known[option])}")
    for draw in draws:
        draw.figures = {
            data_set: {name: figures for name, figures in part.items() if not names or name in names}
            for data_set, part in draw.figures.items()
            if not data_sets or data_set in data_sets
        }
        draw.figures = {data_set: part for data_set, part in draw.figures.items() if part}
    return [draw for draw in draws if draw.figures]


def refuse_mixed(draws: Iterable[Draw]) -> None:
    """Raises ValueError where one column would hold figures of different images, resolutions or settings."""
    conditions: dict[tuple[str, str], dict[str, list[Result]]] = {}

    def add(data_set: str, what: str, value: Any, result: Result) -> None:
        conditions.setdefault((data_set, what), {}).setdefault(str(value), []).append(result)

    for draw in draws:
        for (data_set, name), result in draw.sources.items():
            if name not in draw.figures.get(data_set, {}):
                continue
            protocol = (result.content.get("protocols") or {}).get(data_set) or {}
            settings = protocol.get("figures") or {}
            for key, value in protocol.items():
                if key not in ("figures", "train_images", "test_images"):  # these follow from the fingerprints
                    add(data_set, WORDS.get(key, key), value, result)
            for key, value in flat(settings.get(name) or {}).items():
                add(data_set, f"{name}.{key}", value, result)
    lines = []
    for (data_set, what), values in conditions.items():
        if len(values) > 1:
            names = _told_apart(values)
            if what in WORDS.values():
                lines.append(f"- {data_set}: {what} of {' are others than those of '.join(names.values())}")
            else:
                told = " and ".join(f"{value} in {runs}" for value, runs in names.items())
                lines.append(f"- {data_set}: {what} is {told}")
    if lines:
        raise ValueError("\n".join(["results of different protocols:", *lines, ADVICE]))


def _told_apart(values: dict[str, list[Result]]) -> dict[str, str]:
    """The runs of each value by name, or by their files where the names do not tell them apart."""
    by_name = {value: {result.run for result in results} for value, results in values.items()}
    unique = len(set().union(*by_name.values())) == sum(map(len, by_name.values()))
    return {value: _listed([r.run if unique else r.place for r in results]) for value, results in values.items()}


def _listed(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def why_unscreened(draw: Draw, data_set: str) -> str | None:
    """Why test images of a data set may be among the images that a backbone was trained on; None where they are not."""
    if draw.kind in ("untrained", "pixels"):
        return None
    if draw.kind != "trained":
        return OUTSIDE
    for result in draw.results_on(data_set):
        entry = (result.content.get("screening") or {}).get(data_set) or {}
        if not entry.get("screened", False):
            return str(entry.get("why") or "its pretraining images are not known")
    return None


def refuse_unscreened(draws: Iterable[Draw]) -> None:
    """Raises ValueError for what was trained on a set curated here, and judged on images it was not screened against.

    Of other pretraining images nobody here knows; these carry a footnote.
    """
    refused: dict[tuple[str, str], list[str]] = {}
    for draw in draws:
        for data_set in draw.figures:
            why = why_unscreened(draw, data_set)
            if why is not None and draw.kind == "trained" and draw.data.get("curated"):
                refused.setdefault((data_set, why), []).append(draw.result.run)
    if refused:
        lines = [f"- {data_set}: {_listed(runs)} ({why})" for (data_set, why), runs in refused.items()]
        raise ValueError(
            "\n".join(
                [
                    "trained on data sets that were curated here, but not screened against the test images:", *lines,
                    "They may hold copies of them. Add the test images to curation.leakage.tests and run `fit` again, "
                    "leave these runs out, choose other sets with --data-set, or show them, marked, with "
                    "--allow-unscreened",
                ]
            )
        )  # fmt: skip
