"""Which judged backbones are one row of a comparison, and what tells rows apart."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from pas_train.comparison.reading import Result
from pas_train.comparison.rows import Draw, Row

KINDS = ("pixels", "untrained", "start", "published", "trained")  # in the order of a table
TITLES = {"pixels": "raw pixels", "untrained": "untrained"}
DIGEST = re.compile(r"[0-9a-f]{16,}")
MANY = 3  # settings that a label or a note names


def draws_of(results: Iterable[Result]) -> list[Draw]:
    """All judged backbones, each once: of a figure that several files hold, the newest counts.

    A backbone is the same by the identity of its weights.
    """
    found: dict[tuple[Any, ...], Draw] = {}
    for result in sorted(results, key=lambda one: one.modified):
        for key, described in (result.content.get("backbones") or {}).items():
            kind = str(described.get("kind") or key)
            kind = "published" if kind == "trained" and not result.training else kind
            identity = described.get("identity") or (result.place, key)
            place = (json.dumps(identity, default=str),) if kind == "trained" else (kind, json.dumps(identity))
            draw = Draw(key, kind, str(described.get("title") or key), str(described.get("architecture") or ""), result)
            draw = found.setdefault(place, draw)
            if kind == "trained" and draw.result.config is None:
                draw.result = result if result.config is not None else draw.result
            for data_set, backbones in result.content["evaluation"].items():
                for name, figures in (backbones.get(key) or {}).items():
                    draw.figures.setdefault(data_set, {})[name] = figures
                    draw.sources[data_set, name] = result
    return [draw for draw in found.values() if draw.figures]


def rows_of(draws: Iterable[Draw]) -> tuple[list[Row], list[str]]:
    """Rows in the order of a table, and notes for the reader."""
    draws = list(draws)
    groups: dict[str, dict[Any, Draw]] = {}
    notes = _pass_over_unknown(draws)
    for draw in draws:
        seeds = groups.setdefault(json.dumps(_group(draw), sort_keys=True, default=str), {})
        seed = _seed(draw)
        if seed in seeds:
            places = f"{seeds[seed].result.place} and {draw.result.place}"
            notes.append(f"{places} are trainings of the same settings and seed; the newer one counts.")
            seeds.pop(seed)
        seeds[seed] = draw
    rows = [Row(_name(draws[0]), draws[0].kind, draws) for draws in map(_ordered, groups.values())]
    rows.sort(key=_place)
    _tell_apart(rows)
    return rows, notes + _unequal_recipes(rows)


def _pass_over_unknown(draws: Iterable[Draw]) -> list[str]:
    """A setting that came or went with a version of the program parts no seeds of one row; a note for the reader."""
    methods: dict[str, list[Draw]] = {}
    for draw in draws:
        if draw.result.recipe is not None:
            methods.setdefault(str(draw.result.training.get("method")), []).append(draw)
    notes = []
    for members in methods.values():
        known: list[set[str]] = list({id(draw.result): draw.result.arguments for draw in members}.values())
        unknown = frozenset(known[0].union(*known) - known[0].intersection(*known))
        for draw in members:
            draw.unknown = unknown
        own = [draw for draw in members if draw.kind == "trained"]
        told = sorted(name for name in unknown if any(f"{key}.".startswith(f"{name}.") for d in own
                                                      for key in d.result.recipe or {}))  # fmt: skip
        if told and own:
            notes.append(f"{', '.join(told)}: not known to every version of the program that trained here; taken as "
                         "the same for all.")  # fmt: skip
    return notes


def _ordered(seeds: dict[Any, Draw]) -> list[Draw]:
    return [draw for _, draw in sorted(seeds.items(), key=lambda item: str(item[0]))]


def _group(draw: Draw) -> list[Any]:
    """What draws of one row have in common."""
    recipe = draw.recipe or {}
    if draw.kind == "untrained" and draw.key != "untrained":  # random:NAME, which need not be what was trained
        return ["random", draw.title, _identity(draw)]
    if draw.kind == "untrained":  # other seeds are other draws of the same
        stem = bool(recipe.get("model.small_images"))
        return ["untrained", draw.architecture, _own(recipe, "model.backbone"), stem]
    if draw.kind != "trained":
        return [draw.kind, draw.title, _identity(draw)]
    training, data = draw.training, draw.data
    identity = str(data.get("identity"))
    # The identity of a folder is its path, which may differ between machines.
    images = [identity if DIGEST.fullmatch(identity) else None, data.get("name"), data.get("images")]
    known = [training.get(key) for key in ("method", "backbone", "epochs", "steps", "batch_size", "image_size")]
    return ["trained", images, known, draw.recipe]


def _own(recipe: dict[str, Any], before: str) -> dict[str, Any]:
    return {key: value for key, value in recipe.items() if key.startswith(before)}


def _identity(draw: Draw) -> Any:
    return (draw.result.content["backbones"][draw.key] or {}).get("identity")


def _seed(draw: Draw) -> Any:
    """What tells the draws of a row apart."""
    if draw.kind != "trained":
        return str(_identity(draw))
    if draw.result.recipe is None:  # two runs of one seed then differ in what is not known
        return (str(draw.training.get("seed")), draw.result.run)
    return draw.result.seeds


def _name(draw: Draw) -> str:
    """Of the pretraining set, or of the baseline."""
    if draw.kind == "trained":
        return str(draw.data.get("name") or draw.data.get("source") or draw.result.run)
    if draw.key in TITLES:
        return TITLES[draw.key]
    return draw.title


def _place(row: Row) -> tuple[Any, ...]:
    order = KINDS.index(row.kind) if row.kind in KINDS else len(KINDS)
    own = bool(row.first.data.get("curated"))  # those of others first, as papers do
    return order, row.backbone, row.method, row.epochs or 0, own, row.images or 0, row.name


def _tell_apart(rows: Sequence[Row]) -> None:
    """Gives rows that look alike what tells them apart: domain, settings, seed, or the name of their run."""
    alike: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        alike.setdefault((row.name, row.kind, row.images, row.epochs, row.method, row.backbone), []).append(row)
    for group in alike.values():
        if len(group) > 1:
            for row, words in zip(group, _differences(group), strict=True):
                row.detail = ", ".join(words)


def _differences(group: Sequence[Row]) -> list[list[str]]:
    domains = [[row.domain] for row in group]
    if _distinct(domains) and all(row.domain for row in group):
        return domains
    training = ("image_size", "batch_size", "steps")
    told = [{f"{key}": row.first.training.get(key) for key in training} for row in group]
    for one, row in zip(told, group, strict=True):
        one |= {key.rsplit(".", 1)[-1]: value for key, value in (row.first.recipe or {}).items()}
    keys = [key for key in dict.fromkeys(k for one in told for k in one) if len({str(o.get(key)) for o in told}) > 1]
    words = [[f"{key.replace('_', ' ')} {_short(one.get(key))}" for key in keys[:MANY]] for one in told]
    if keys and _distinct(words):
        return words
    names = [[row.first.result.run] for row in group]
    return names if _distinct(names) else [[row.first.result.place] for row in group]


def _short(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _distinct(words: Sequence[Sequence[str]]) -> bool:
    return len({tuple(one) for one in words}) == len(words)


def missing_seeds(rows: Iterable[Row]) -> list[str]:
    """Where a row has fewer seeds on one evaluation set than it has in all; for the reader."""
    notes = []
    for row in rows:
        counts = Counter(data_set for draw in row.draws for data_set in draw.figures)
        few = [f"{count} on {data_set}" for data_set, count in counts.items() if count < len(row.draws)]
        if few:
            notes.append(f"{row.label} has {len(row.draws)} seeds, but {' and '.join(few)}.")
    return notes


def _unequal_recipes(rows: Sequence[Row]) -> list[str]:
    """What trainings differ in beside their images, among those of one method and backbone."""
    notes, groups = [], dict[tuple[str, str], list[Row]]()
    for row in rows:
        if row.kind == "trained" and row.first.recipe is not None:
            groups.setdefault((row.method, row.backbone), []).append(row)
    for (method, backbone), group in groups.items():
        recipes = [row.first.recipe or {} for row in group]
        told = []
        for key in dict.fromkeys(key for recipe in recipes for key in recipe):
            values: dict[str, list[str]] = {}
            for row, recipe in zip(group, recipes, strict=True):
                values.setdefault(_short(recipe.get(key)), []).append(row.name)
            # Not where it is what was compared: each data set was then trained with each value.
            if len(values) > 1 and len(set(map(frozenset, values.values()))) > 1:
                parts = (f"{value} for {', '.join(dict.fromkeys(names))}" for value, names in values.items())
                told.append(f"{key} ({'; '.join(parts)})")
        if told:
            more = f" and {len(told) - MANY} more settings" if len(told) > MANY else ""
            notes.append(
                f"The trainings of {backbone} by {method} differ not only in their images: "
                f"{', '.join(told[:MANY])}{more}."
            )
    return notes
