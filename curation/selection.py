"""From scores to a total order of removal, and where to cut it. Imports no torch."""

import warnings
from typing import Any

import numpy as np

from curation.arrays import like, to_numpy


def removal_order(scores: np.ndarray, fronts: np.ndarray) -> np.ndarray:
    """int64 [N]: row numbers in order of removal, first = removed first.

    scores: float [N, M], higher = removed earlier; fronts: int [N]. Fronts ascend; inside a front the larger sum of
    average ranks over all rows goes first, then the smaller row number. Callers pass rows sorted by key.
    """
    from scipy.stats import rankdata

    values = to_numpy(scores)
    if not len(values):
        return like(np.empty(0, np.int64), scores)
    ranks = rankdata(values, axis=0).sum(axis=1)
    return like(np.lexsort((np.arange(len(values)), -ranks, to_numpy(fronts))).astype(np.int64), scores)


def front_curves(scores: np.ndarray, fronts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(x int64 [F], y float64 [F, M]) of the stop rule's curves (paper section 3.3).

    x: images removed up to and including each front; y: mean of each score over the images of that front.
    """
    scores, fronts = to_numpy(scores).astype(np.float64), to_numpy(fronts)
    _, inverse, counts = np.unique(fronts, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(inverse, scores[:, m], len(counts)) for m in range(scores.shape[1])], axis=1)
    return np.cumsum(counts), sums / np.maximum(counts, 1)[:, None]


def knee_cut(
    scores: np.ndarray, fronts: np.ndarray, sensitivity: float = 1.0, knee: str = "first"
) -> tuple[int, list[int | None]]:
    """(images to remove, knee of each score's curve in images removed, or None).

    Kneedle on each convex, falling curve; the cut is the largest knee, 0 where none is found. A curve has no knee
    with fewer than 3 fronts, when it is constant, or when its linear fit rises. Open in the paper: the sensitivity,
    and which knee of several. "first" is kneed's answer, which on a curve that stays high before it falls is a dent at
    its beginning; "pronounced" takes the knee furthest below the chord, of the curve made monotone by least squares.
    """
    if not len(scores):
        return 0, [None] * to_numpy(scores).shape[1]
    x, curves = front_curves(scores, fronts)
    find = {"first": _first_knee, "pronounced": _pronounced_knee}[knee]
    knees = [find(x, curve, sensitivity) if _may_have_knee(x, curve) else None for curve in curves.T]
    return max((found for found in knees if found is not None), default=0), knees


def _may_have_knee(x: np.ndarray, y: np.ndarray) -> bool:
    return len(x) >= 3 and bool(np.ptp(y) > 0) and float((x - x.mean()) @ (y - y.mean())) <= 0


def _first_knee(x: np.ndarray, y: np.ndarray, sensitivity: float) -> int | None:
    found = _locate(x, y, sensitivity, online=False).knee
    return None if found is None else int(found)


def _pronounced_knee(x: np.ndarray, y: np.ndarray, sensitivity: float) -> int | None:
    from scipy.optimize import isotonic_regression

    falling = isotonic_regression(y, weights=np.diff(x, prepend=0), increasing=False).x
    if not np.ptp(falling):
        return None
    located = _locate(x, falling, sensitivity, online=True)
    below = {int(found): located.y_difference[np.searchsorted(x, found)] for found in sorted(located.all_knees)}
    return max(below, key=lambda found: below[found], default=None)


def _locate(x: np.ndarray, y: np.ndarray, sensitivity: float, online: bool) -> Any:
    from kneed import KneeLocator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kneed warns where there is no knee; None says so
        return KneeLocator(x, y, S=sensitivity, curve="convex", direction="decreasing", online=online)
