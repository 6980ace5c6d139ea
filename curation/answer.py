"""A curation held against a pool with a known answer. Imports no torch."""

from typing import Any

import numpy as np
import pyarrow as pa

OUTSIDE = ("ood", "ood_text", "text_only")
INSIDE = ("photo", "duplicate")


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
        "kept": _kept(ledger, kind),
    }


def _column(ledger: pa.Table, name: str) -> np.ndarray | None:
    return ledger[name].to_numpy(zero_copy_only=False) if name in ledger.column_names else None


def _duplicates(ledger: pa.Table, kind: np.ndarray, group: np.ndarray) -> dict[str, Any] | None:
    """Precision and recall over pairs of rows in one group."""
    found = _column(ledger, "duplicate_group")
    if found is None:
        return None
    seen = np.array([value is not None and value == value for value in found])
    predicted = _pairs([found[i] for i in np.flatnonzero(seen)], np.flatnonzero(seen))
    real = np.flatnonzero(seen & np.isin(kind, INSIDE))
    true = _pairs([group[i] for i in real], real)
    # Two altered copies of one test image are copies of each other too: neither right nor wrong here.
    asked = {(a, b) for a, b in predicted if kind[a] not in ("leak", "unknown") and kind[b] not in ("leak", "unknown")}
    hits = len(asked & true)
    return {
        "precision": hits / len(asked) if asked else None,
        "recall": hits / len(true) if true else None,
        "pairs_found": len(asked),
        "pairs_true": len(true),
    }


def _pairs(labels: list[Any], rows: np.ndarray) -> set[tuple[int, int]]:
    members: dict[Any, list[int]] = {}
    for label, row in zip(labels, rows.tolist(), strict=True):
        members.setdefault(label, []).append(row)
    return {(a, b) for rows_ in members.values() for i, a in enumerate(rows_) for b in rows_[i + 1 :]}


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


def _kept(ledger: pa.Table, kind: np.ndarray) -> dict[str, Any] | None:
    keep = _column(ledger, "keep")
    if keep is None:
        return None
    return {
        name: {"of": int((kind == name).sum()), "kept": int((keep.astype(bool) & (kind == name)).sum())}
        for name in sorted(set(kind))
    }
