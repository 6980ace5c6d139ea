"""From scores to a total order of removal, and where to cut it. Imports no torch."""

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


def knee_cut(scores: np.ndarray, fronts: np.ndarray, sensitivity: float = 1.0) -> tuple[int, list[int | None]]:
    """(images to remove, knee of each score's curve in images removed, or None).

    Kneedle on each convex, falling curve; the cut is the largest knee, 0 where none is found. A curve has no knee
    with fewer than 3 fronts, when it is constant, or when its linear fit rises. Open in the paper: the sensitivity.
    """
    if not len(scores):
        return 0, [None] * to_numpy(scores).shape[1]
    x, curves = front_curves(scores, fronts)
    knees = [_knee(x, curve, sensitivity) for curve in curves.T]
    return max((knee for knee in knees if knee is not None), default=0), knees


def _knee(x: np.ndarray, y: np.ndarray, sensitivity: float) -> int | None:
    import warnings

    from kneed import KneeLocator

    if len(x) < 3 or np.ptp(y) == 0:
        return None
    centred = x - x.mean()
    if float(centred @ (y - y.mean())) > 0:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kneed warns where there is no knee; None says so
        knee = KneeLocator(x, y, S=sensitivity, curve="convex", direction="decreasing").knee
    return None if knee is None else int(knee)
