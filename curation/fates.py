"""What the filters and the selection found of one image, in words. Imports no torch."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.manifest import SCORES
from curation.workspace import Workspace

NAMED = 5  # keys of other images

Facts = dict[str, Any]


def tell_fate(space: Workspace, facts: Facts) -> list[tuple[str, str]]:
    """(step, what happened) from the search for identical files to kept or dropped; only steps that saw the image.

    facts: the ledger's columns of the image.
    """
    steps = []
    told = {
        "identical": ("readable", _identical), "leakage": ("leak_similarity", _leakage),
        "duplicates": ("duplicate_group", _duplicates), "text": ("text_area", _text), "scores": ("ood", _scores),
        "order": ("removal_rank", _order), "fate": ("keep", _fate), "data sets": ("keep", _data_sets),
    }  # fmt: skip
    for step, (column, tell) in told.items():
        text = tell(space, facts) if facts.get(column) is not None else ""
        if text:
            steps.append((step, text))
    return steps


def _settings(space: Workspace, stage: str) -> dict[str, Any]:
    return (space.stage_record(stage) or {}).get("settings") or {}


def _keys_where(space: Workspace, stage: str, column: str, value: Any) -> list[str]:
    table = space.columns(stage, ["key", column])
    return table.filter(pc.equal(table[column], value))["key"].to_pylist()


def _few(keys: list[str]) -> str:
    more = f" and {len(keys) - NAMED:,} more" if len(keys) > NAMED else ""
    return ", ".join(keys[:NAMED]) + more


def _identical(space: Workspace, facts: Facts) -> str:
    if "identical_to" not in facts:
        return ""
    if facts["identical_to"] is not None:
        return f"the same bytes as {facts['identical_to']}, which stays"
    others = _keys_where(space, "identical", "identical_to", facts["key"])
    return f"stays for {_few(others)}, which have the same bytes" if others else ""


def _leakage(space: Workspace, facts: Facts) -> str:
    settings = _settings(space, "leakage")
    text = f"cosine {facts['leak_similarity']:.3f} to the test image {facts['leaks_from']}"
    bound = settings.get("threshold")
    if facts.get("leak_score") is not None:
        other = facts.get("leak_score_from")
        text += f"; score {facts['leak_score']:.3f} after normalisation" + (f", to {other}" if other else "")
        bound = (settings.get("score_normalisation") or {}).get("threshold")
    verdict = "leaks from it" if facts.get("leaks") else "no leak"
    return text + (f", threshold {bound}" if bound is not None else "") + f": {verdict}"


def _duplicates(space: Workspace, facts: Facts) -> str:
    members = _keys_where(space, "duplicates", "duplicate_group", facts["duplicate_group"])
    others = [key for key in members if key not in (facts["key"], facts["duplicate_of"])]
    leak = "; a member of the group leaks, and all of it goes" if facts.get("leaks_with_group") else ""
    if facts["duplicate_of"] is not None:
        rest = f"; its group of {len(members):,} has also {_few(others)}" if others else ""
        return f"a copy of {facts['duplicate_of']}, which stays{rest}{leak}"
    if not others:
        return f"no copy of it was found{leak}"
    return f"stays for its group of {len(members):,}, with {_few(others)}{leak}"


def _text(space: Workspace, facts: Facts) -> str:
    boxes = facts.get("text_boxes") or []
    if not boxes and not facts["text_area"]:
        return "none found"
    places = []
    for box in boxes[:NAMED]:
        left, right, top, bottom = min(box[::2]), max(box[::2]), min(box[1::2]), max(box[1::2])
        places.append(f"x {left}-{right} y {top}-{bottom}")
    more = f" and {len(boxes) - NAMED:,} more" if len(boxes) > NAMED else ""
    where = f" in {len(boxes):,} {'region' if len(boxes) == 1 else 'regions'}: {', '.join(places)}{more}"
    return f"{100 * facts['text_area']:.1f} % of its area" + (where if boxes else "")


def _scores(space: Workspace, facts: Facts) -> str:
    closest = (
        f"; closest concept {facts['concept']} ({facts['concept_similarity']:.3f})" if facts.get("concept") else ""
    )
    used = _settings(space, "select").get("scores") or SCORES
    titles = dict(zip(SCORES, ("out of domain", "of the general domain", "leaning on text"), strict=True))
    scores = [
        f"{title} {facts[name]:.3f}{'' if name in used else ' (does not count)'}" for name, title in titles.items()
    ]
    return ", ".join(scores) + closest


def _order(space: Workspace, facts: Facts) -> str:
    ranks = space.columns("select", ["removal_rank", "drop_reason"])
    total = pc.count(ranks["removal_rank"]).as_py()
    front = "" if facts.get("front") is None else f", in front {facts['front'] + 1} (1 goes first)"
    text = f"number {facts['removal_rank'] + 1:,} of {total:,} in the order of removal{front}"
    ranked = ranks.filter(pc.is_valid(ranks["removal_rank"]))
    reasons = pc.fill_null(ranked["drop_reason"], "")
    removed = pc.sum(pc.invert(pc.is_in(reasons, value_set=pa.array(["", "quota"])))).as_py() or 0
    return f"{text}; the cut is after number {removed:,}" if removed else f"{text}; none is removed"


def _fate(space: Workspace, facts: Facts) -> str:
    if facts["keep"]:
        return "kept"
    text = f"dropped: {facts['drop_reason']}"
    if facts["drop_reason"] == "source":
        return f"{text} (the data set takes no {facts['source']} image)"
    if facts["drop_reason"] != "quota":
        return text
    settings, quotas = _settings(space, "select"), []
    if settings.get("per_concept_max") is not None:
        quotas.append(f"at most {settings['per_concept_max']:,} images of a concept")
    if settings.get("synthetic_share") is not None:
        quotas.append(f"at most {100 * settings['synthetic_share']:.0f} % synthetic")
    return text + (f" ({', '.join(quotas)}; images that are deeper in the domain fill it)" if quotas else "")


def _data_sets(space: Workspace, facts: Facts) -> str:
    """The data sets that hold the image, where there are others than `full`."""
    manifests = sorted((space.root / "dataset").glob("*/manifest.parquet"))
    if len(manifests) < 2:
        return ""
    held = [
        path.parent.name for path in manifests
        if pq.read_table(path, columns=["key"], filters=pc.field("key") == facts["key"]).num_rows
    ]  # fmt: skip
    return f"in {', '.join(held)}" if held else "in none"
