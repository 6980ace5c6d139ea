"""Pareto fronts of the scores: the images that no other image exceeds are removed first (paper section 3.3)."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from functools import cache, partial

import numpy as np

from curation.arrays import like, to_numpy

Sweep = Callable[[np.ndarray, np.ndarray, np.ndarray, int, int], np.ndarray]
EVERY = np.iinfo(np.int32).max


def pareto_fronts(scores: np.ndarray, max_rank: int | None = None, enough: int | None = None) -> np.ndarray:
    """int32 [N]: number of the front of each row; front 0 is removed first, equal rows share a front.

    scores: float [N, M], higher = removed earlier. A row dominates another when it is at least as high in every score
    and higher in one; a row's front is one more than the highest front among the rows that dominate it, else 0.
    max_rank: stop there; rows of that and of all later fronts get the number max_rank. None goes to the end.
    enough: stop at the first front before which so many rows are, as max_rank does; None needs all. Whoever removes
    that many rows removes the same ones as with all fronts.
    Up to three scores take O(N log^2 N) steps, more take O(N^2). Raises ValueError for NaN or another shape.
    """
    values = to_numpy(scores)
    if values.ndim != 2 or values.shape[1] < 1:
        raise ValueError(f"scores must be [N, M] with M >= 1, got shape {values.shape}")
    if max_rank is not None and max_rank < 1:
        raise ValueError(f"max_rank must be at least 1, or None for every front, got {max_rank}")
    if enough is not None and enough < 1:
        raise ValueError(f"enough must be at least 1, or None for every front, got {enough}")
    values = values if values.dtype == np.float32 else values.astype(np.float64)
    if np.isnan(values.max(initial=-np.inf)):  # a maximum passes NaN on, in a tenth of the time of looking at each
        bad = np.isnan(values).any(axis=1)
        raise ValueError(
            f"scores hold NaN in {int(bad.sum())} rows, first row {int(bad.argmax())}; every image needs all its scores"
        )
    if values.shape[1] > 3:
        return like(_stop_early(_quadratic(values), max_rank, enough), scores)
    padded = np.zeros((3, len(values)), values.dtype)
    padded[: values.shape[1]] = -values.T  # minimised from here on
    order = lexicographic_order(*padded)
    fronts = np.empty(len(values), np.int32)
    # Gathered once, so that the sweep reads memory in order.
    first, second, third = (column[order] for column in padded)
    fronts[order] = _fastest_sweep()(first, second, third, max_rank or EVERY, enough or EVERY)
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


def sweep(first: np.ndarray, second: np.ndarray, third: np.ndarray, limit: int, enough: int) -> np.ndarray:
    """int32 [N]: front of each row; rows in lexicographic order, all three minimised; see pareto_fronts.

    Whatever dominates a row stands before it and is no higher in `first`, so a front is known by its staircase: its
    lowest pairs (second ascending, third falling). `Front r dominates the row` is monotone in r, so the first front
    that does not is found by binary search, and the staircase's place by another: O(log F * log stairs) a row.
    """
    ranks = np.empty(len(first), np.int32)
    stairs: list[tuple[list[float], list[float]]] = []
    sizes: list[int] = []
    before = 0  # rows of all these fronts

    def is_free(x: float, y: float, rank: int) -> bool:
        """Whether no row of the front dominates (x, y)."""
        xs, ys = stairs[rank]
        place = bisect_right(xs, x)
        return place == 0 or ys[place - 1] > y

    last = None
    for row, point in enumerate(zip(first.tolist(), second.tolist(), third.tolist(), strict=True)):
        _, x, y = point
        if point == last:
            rank = int(ranks[row - 1])
        else:
            rank = bisect_left(range(len(stairs)), True, key=partial(is_free, x, y))
            if rank == len(stairs) < limit:
                stairs.append(([], []))
                sizes.append(0)
            if rank < limit:
                _insert(*stairs[rank], x, y)
        last = point
        ranks[row] = rank
        if rank < limit:
            sizes[rank] += 1
            before += 1
            # A row's front is final, so the fronts before the last may hold enough already: the last is not needed.
            while before - sizes[-1] >= enough:
                before -= sizes.pop()
                stairs.pop()
                limit = len(stairs)
    return np.minimum(ranks, np.int32(limit))


def _insert(xs: list[float], ys: list[float], x: float, y: float) -> None:
    """Puts a stair in the place of those that it covers."""
    place = end = bisect_left(xs, x)
    while end < len(xs) and ys[end] >= y:
        end += 1
    xs[place:end], ys[place:end] = [x], [y]


def _stop_early(fronts: np.ndarray, max_rank: int | None, enough: int | None) -> np.ndarray:
    """What `sweep` gives, of all fronts."""
    limit = EVERY if max_rank is None else max_rank
    if enough is not None and len(fronts) >= enough:
        limit = min(limit, int(np.searchsorted(np.cumsum(np.bincount(fronts)), enough)) + 1)
    return np.minimum(fronts, np.int32(limit))


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
