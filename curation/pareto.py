"""Pareto fronts of the scores: the images that no other image exceeds are removed first (paper section 3.3)."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from functools import cache, partial

import numpy as np

from curation.arrays import like, to_numpy

Sweep = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]


def pareto_fronts(scores: np.ndarray, max_rank: int | None = None) -> np.ndarray:
    """int32 [N]: number of the front of each row; front 0 is removed first, equal rows share a front.

    scores: float [N, M], higher = removed earlier. A row dominates another when it is at least as high in every score
    and higher in one; a row's front is one more than the highest front among the rows that dominate it, else 0.
    max_rank: stop there; rows of that and of all later fronts get the number max_rank. None goes to the end.
    Up to three scores take O(N log N) steps, more take O(N^2). Raises ValueError for NaN or another shape.
    """
    values = to_numpy(scores)
    if values.ndim != 2 or values.shape[1] < 1:
        raise ValueError(f"scores must be [N, M] with M >= 1, got shape {values.shape}")
    if max_rank is not None and max_rank < 1:
        raise ValueError(f"max_rank must be at least 1, or None for every front, got {max_rank}")
    values = values if values.dtype == np.float32 else values.astype(np.float64)
    bad = np.isnan(values).any(axis=1)
    if bad.any():
        raise ValueError(
            f"scores hold NaN in {int(bad.sum())} rows, first row {int(bad.argmax())}; every image needs all its scores"
        )
    if values.shape[1] > 3:
        fronts = _quadratic(values)
        return like(fronts if max_rank is None else np.minimum(fronts, np.int32(max_rank)), scores)
    padded = np.zeros((3, len(values)), values.dtype)
    padded[: values.shape[1]] = -values.T  # minimised from here on
    order = lexicographic_order(*padded)
    fronts = np.empty(len(values), np.int32)
    # Gathered once, so that the sweep reads memory in order.
    first, second, third = (column[order] for column in padded)
    fronts[order] = _fastest_sweep()(first, second, third, max_rank or 0)
    return like(fronts, scores)


def lexicographic_order(first: np.ndarray, second: np.ndarray, third: np.ndarray) -> np.ndarray:
    """np.lexsort((third, second, first)) up to equal rows, but only rows that tie in `first` are sorted by all three.

    One argsort of floats is 20 times faster than lexsort, which would be half of the whole time.
    """
    order = np.argsort(first)
    ordered = first[order]
    same = ordered[1:] == ordered[:-1]
    tied = np.zeros(len(order), bool)
    tied[1:] |= same
    tied[:-1] |= same
    if tied.any():
        rows = order[tied]
        order[tied] = rows[np.lexsort((third[rows], second[rows], first[rows]))]
    return order


@cache
def _fastest_sweep() -> Sweep:
    """The compiled sweep, or its twin where numba is missing."""
    try:
        from curation.pareto_kernels import sweep as compiled
    except ImportError:
        return sweep
    return compiled


def sweep(first: np.ndarray, second: np.ndarray, third: np.ndarray, max_rank: int) -> np.ndarray:
    """int32 [N]: front of each row; rows in lexicographic order, all three minimised; max_rank 0 = every front.

    Whatever dominates a row stands before it and is no higher in `first`, so a front is known by its staircase: its
    lowest pairs (second ascending, third falling). `Front r dominates the row` is monotone in r, so the first front
    that does not is found by binary search, and the staircase's place by another: O(log F * log stairs) a row.
    """
    ranks = np.empty(len(first), np.int32)
    stairs: list[tuple[list[float], list[float]]] = []

    def is_free(x: float, y: float, rank: int) -> bool:
        """Whether no row of the front dominates (x, y)."""
        xs, ys = stairs[rank]
        place = bisect_right(xs, x)
        return place == 0 or ys[place - 1] > y

    before = None
    for row, point in enumerate(zip(first.tolist(), second.tolist(), third.tolist(), strict=True)):
        if point == before:
            ranks[row] = ranks[row - 1]
            continue
        before = point
        _, x, y = point
        rank = bisect_left(range(len(stairs)), True, key=partial(is_free, x, y))
        ranks[row] = rank
        if max_rank and rank >= max_rank:
            continue
        if rank == len(stairs):
            stairs.append(([], []))
        xs, ys = stairs[rank]
        place = end = bisect_left(xs, x)
        while end < len(xs) and ys[end] >= y:  # stairs that the new one covers
            end += 1
        xs[place:end], ys[place:end] = [x], [y]
    return ranks


def _quadratic(scores: np.ndarray) -> np.ndarray:
    """Fronts of any number of scores, by comparison with every earlier row of the lexicographic order."""
    order = np.lexsort(-scores.T[::-1])
    ordered = scores[order]
    ranks = np.zeros(len(order), np.int32)
    for row in range(1, len(order)):
        if (ordered[row] == ordered[row - 1]).all():
            ranks[row] = ranks[row - 1]
        else:
            above = (ordered[:row] >= ordered[row]).all(axis=1)
            ranks[row] = 1 + ranks[:row].max(initial=-1, where=above)
    fronts = np.empty_like(ranks)
    fronts[order] = ranks
    return fronts
