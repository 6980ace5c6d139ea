"""A curation held against a pool with a known answer. Imports no torch."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.ledger import read_ledger
from curation.workspace import Workspace
from datamodules.files import read_json, write_json

OUTSIDE = ("ood", "ood_text", "text_only")
INSIDE = ("photo", "duplicate")
OF = "manifest_sha256"  # in answer.json: what the figures are of


def judge(workspace: Workspace, truth: Path) -> dict[str, Any]:
    """Figures of the present selection and of every other data set; also written to columns/answer.json.

    truth: the truth.parquet of a pool with a known answer.
    """
    answer = pq.read_table(truth)
    figures = score_against_answer(read_ledger(workspace), answer)
    figures["data_sets"] = score_data_sets(workspace, answer) or None
    write_json(workspace.root / "columns" / "answer.json", {**figures, OF: _selected(workspace)})
    return figures


def read_answer(workspace: Workspace) -> dict[str, Any]:
    """The figures that `judge` kept, empty where there are none of the present selection."""
    figures = read_json(workspace.root / "columns" / "answer.json") or {}
    return figures if figures.pop(OF, None) in (None, _selected(workspace)) else {}


def _selected(workspace: Workspace) -> str | None:
    """SHA-256 of the manifest of the present selection."""
    return (workspace.current_record("select") or {}).get("result", {}).get("manifest_sha256")


def score_data_sets(workspace: Workspace, truth: pa.Table) -> dict[str, dict[str, Any]]:
    """For each data set, whichever method chose it: images, share in the domain, and how many of each kind."""
    found = {}
    for path in sorted((workspace.root / "dataset").glob("*/manifest.parquet")):
        keys = pq.read_table(path, columns=["key"])["key"]
        own = truth.filter(pc.is_in(truth["key"], value_set=keys.combine_chunks()))
        kinds = Counter(own["kind"].to_pylist())
        inside = sum(kinds[kind] for kind in INSIDE)
        share = inside / len(keys) if len(keys) else None
        every = {str(kind): kinds[kind] for kind in sorted(pc.unique(truth["kind"]).to_pylist())}
        found[path.parent.name] = {"images": len(keys), "share_in_domain": share, **every}
    return found


def score_against_answer(ledger: pa.Table, truth: pa.Table) -> dict[str, Any]:
    """How well duplicates, leaks, broken files and out-of-domain images were told.

    truth: columns key, kind (photo, duplicate, ood, ood_text, text_only, leak, ambiguous, broken), group, in_domain.
    Figures that the ledger has no columns for, or that have no case, are None.
    """
    answer = {row["key"]: row for row in truth.to_pylist()}
    keys = ledger["key"].to_pylist()
    kind = np.array([answer.get(key, {}).get("kind", "unknown") for key in keys], dtype=object)
    group = np.array([answer.get(key, {}).get("group", "") for key in keys], dtype=object)
    return {
        "images": len(keys),
        "duplicates": _duplicates(ledger, kind, group),
        "auroc": _auroc(ledger, kind),
        "leaks": _leaks(ledger, kind),
        "broken": _broken(ledger, kind, group),
        "removed": _removed(ledger, kind),
        "kept": _kept(ledger, kind),
    }


def _column(ledger: pa.Table, name: str) -> np.ndarray | None:
    return ledger[name].to_numpy(zero_copy_only=False) if name in ledger.column_names else None


def _duplicates(ledger: pa.Table, kind: np.ndarray, group: np.ndarray) -> dict[str, Any] | None:
    """Precision and recall over pairs of rows in one group."""
    found = _column(ledger, "duplicate_group")
    if found is None:
        return None
    seen = np.array([value is not None and value == value for value in found], bool)
    inside, told = np.isin(kind, INSIDE), ~np.isin(kind, ("leak", "unknown"))
    # Two altered copies of one test image are copies of each other too: neither right nor wrong here.
    asked = _pairs(found[seen & told])
    true = _pairs(group[seen & inside])
    hits = _pairs(zip(found[seen & inside], group[seen & inside], strict=True))
    return {
        "precision": hits / asked if asked else None,
        "recall": hits / true if true else None,
        "pairs_found": asked,
        "pairs_true": true,
    }


def _pairs(labels: Iterable[Any]) -> int:
    """Pairs of rows with equal labels; counted, not listed, for groups of many."""
    return sum(count * (count - 1) // 2 for count in Counter(labels).values())


def _auroc(ledger: pa.Table, kind: np.ndarray) -> dict[str, Any] | None:
    """Area under the ROC of each score for in-domain against out-of-domain images; higher score = outside."""
    figures: dict[str, Any] = {}
    scores = {name: _column(ledger, name) for name in ("ood", "ood_general", "text_gap")}
    rank = _column(ledger, "removal_rank")
    scores["removal_order"] = None if rank is None else -rank.astype(float)
    for name, values in scores.items():
        if values is None:
            continue
        values = values.astype(float)
        inside = values[np.isin(kind, INSIDE) & ~np.isnan(values)]
        parts = {"all": OUTSIDE, **{outside: (outside,) for outside in OUTSIDE}}
        figures[name] = {
            part: _area(values[np.isin(kind, kinds) & ~np.isnan(values)], inside) for part, kinds in parts.items()
        }
    return figures or None


def _area(positive: np.ndarray, negative: np.ndarray) -> float | None:
    from scipy.stats import rankdata

    if not len(positive) or not len(negative):
        return None
    ranks = rankdata(np.concatenate([positive, negative]))[: len(positive)].sum()
    return float((ranks - len(positive) * (len(positive) + 1) / 2) / (len(positive) * len(negative)))


def _leaks(ledger: pa.Table, kind: np.ndarray) -> dict[str, Any] | None:
    reason = _column(ledger, "drop_reason")
    if reason is None or "leaks" not in ledger.column_names:
        return None
    planted = int((kind == "leak").sum())
    found = int(((kind == "leak") & (reason == "leak")).sum())
    alarms = int((np.isin(kind, INSIDE) & (reason == "leak")).sum())
    return {"planted": planted, "found": found, "false_alarms": alarms}


def _broken(ledger: pa.Table, kind: np.ndarray, group: np.ndarray) -> dict[str, Any] | None:
    readable, reason = _column(ledger, "readable"), _column(ledger, "reason")
    if readable is None or reason is None:
        return None
    ok = readable.astype(bool)
    rows = np.flatnonzero(kind == "broken")
    table: dict[str, dict[str, int]] = {}
    for row in rows:
        fate = "readable" if ok[row] else str(reason[row])
        case = table.setdefault(str(group[row]), {})
        case[fate] = case.get(fate, 0) + 1
    lost = int((np.isin(kind, INSIDE) & ~ok).sum())
    return {"total": len(rows), "refused": int((~ok[rows]).sum()), "by_case": table, "usable_lost": lost}


def _removed(ledger: pa.Table, kind: np.ndarray) -> dict[str, Any] | None:
    """Of the images that the selection put in order, by kind: how many it removed, by its cut or by a quota."""
    rank, keep = _column(ledger, "removal_rank"), _column(ledger, "keep")
    if rank is None or keep is None:
        return None
    ranked, kept = ~np.isnan(rank.astype(float)), keep.astype(bool)
    figures = {}
    for name in sorted(set(kind[ranked])):
        mine = ranked & (kind == name)
        removed = int((mine & ~kept).sum())
        figures[name] = {"of": int(mine.sum()), "removed": removed, "share": removed / int(mine.sum())}
    return figures


def _kept(ledger: pa.Table, kind: np.ndarray) -> dict[str, Any] | None:
    keep = _column(ledger, "keep")
    if keep is None:
        return None
    return {
        name: {"of": int((kind == name).sum()), "kept": int((keep.astype(bool) & (kind == name)).sum())}
        for name in sorted(set(kind))
    }
