"""Pareto fronts of three scores: the images that no image exceeds are removed first (paper section 3.3)."""

from collections.abc import Callable
from functools import cache

import numpy as np


def pareto_fronts(scores: np.ndarray, max_fronts: int = 0) -> np.ndarray:
    """int32 [N]: number of the front of each row; front 0 is removed first, equal rows share a front.

    scores: float [N, M], M = 1 to 3, higher = removed earlier. A row is in front r when a row of front r - 1 is at
    least as high in every score and higher in one, and none of a later front is. max_fronts > 0 stops there: rows
    beyond it get the number max_fronts. Raises ValueError for NaN or another shape.

    Rows are taken in falling lexicographic order, so that whatever dominates a row stands before it. A front keeps
    the staircase of its rows in the second and third score; the first front that does not dominate the row is found
    by binary search: O(log F * log stairs) a row (ENS with staircases).
    """
    scores = np.asarray(scores)
    if scores.ndim != 2 or not 1 <= scores.shape[1] <= 3:
        raise ValueError(f"scores must be [N, 1..3], got {scores.shape}")
    if np.isnan(scores).any():
        raise ValueError(f"scores hold NaN in {int(np.isnan(scores).any(axis=1).sum())} rows; every image needs a score")
    padded = np.zeros((len(scores), 3), scores.dtype if scores.dtype.kind == "f" else np.float64)
    padded[:, : scores.shape[1]] = scores
    first, second, third = (-padded[:, column] for column in range(3))  # minimised from here on
    order = _lexicographic(first, second, third)
    ranks = _sweep()(first[order], second[order], third[order], max_fronts)
    fronts = np.empty(len(scores), np.int32)
    fronts[order] = ranks
    return fronts


def _lexicographic(first: np.ndarray, second: np.ndarray, third: np.ndarray) -> np.ndarray:
    """np.lexsort((third, second, first)): one fast argsort, then a repair of the runs that tie in the first score."""
    order = np.argsort(first)
    ordered = first[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(order) else np.empty(0, int)
    lengths = np.diff(np.append(starts, len(order)))
    tied = np.repeat(lengths > 1, lengths)
    if tied.any():
        rows = order[tied]
        order[tied] = rows[np.lexsort((third[rows], second[rows], first[rows]))]
    return order


@cache
def _sweep() -> Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]:
    """The compiled sweep, or the same code in Python where numba is missing."""
    try:
        from numba import njit
    except ImportError:
        return sweep
    return njit(nogil=True)(sweep)  # type: ignore[no-any-return]


def sweep(first: np.ndarray, second: np.ndarray, third: np.ndarray, max_fronts: int) -> np.ndarray:
    """Fronts of rows in lexicographic order, all three minimised. Plain loops: compiled by numba.

    Stairs live in one pool, a block a front; `x` ascends and `y` descends inside a block. A full block moves to the
    end of the pool with twice the room.
    """
    n = first.size
    ranks = np.empty(n, np.int32)
    x = np.empty(max(1024, n), second.dtype)
    y = np.empty(max(1024, n), third.dtype)
    start = np.zeros(1024, np.int64)
    length = np.zeros(1024, np.int64)
    room = np.zeros(1024, np.int64)
    top = 0
    fronts = 0
    for i in range(n):
        a = second[i]
        b = third[i]
        if i > 0 and first[i] == first[i - 1] and a == second[i - 1] and b == third[i - 1]:
            ranks[i] = ranks[i - 1]
            continue
        low = 0
        high = fronts
        while low < high:  # 'front k dominates' is monotone in k
            k = (low + high) >> 1
            left = start[k]
            right = left + length[k]
            while left < right:  # the last stair with x <= a
                middle = (left + right) >> 1
                if x[middle] <= a:
                    left = middle + 1
                else:
                    right = middle
            if left > start[k] and y[left - 1] <= b:
                low = k + 1
            else:
                high = k
        ranks[i] = low
        if max_fronts > 0 and low >= max_fronts:
            ranks[i] = max_fronts
            continue
        if low == fronts:
            if fronts == start.size:
                start = np.concatenate((start, np.zeros(fronts, np.int64)))
                length = np.concatenate((length, np.zeros(fronts, np.int64)))
                room = np.concatenate((room, np.zeros(fronts, np.int64)))
            if top + 4 > x.size:
                x = np.concatenate((x, np.empty(x.size, x.dtype)))
                y = np.concatenate((y, np.empty(y.size, y.dtype)))
            start[low] = top
            length[low] = 1
            room[low] = 4
            x[top] = a
            y[top] = b
            top += 4
            fronts += 1
            continue
        origin = start[low]
        count = length[low]
        left = origin
        right = origin + count
        while left < right:  # the first stair with x >= a
            middle = (left + right) >> 1
            if x[middle] < a:
                left = middle + 1
            else:
                right = middle
        end = left
        while end < origin + count and y[end] >= b:  # stairs that the new one covers
            end += 1
        covered = end - left
        if covered == 0 and count == room[low]:
            wanted = 2 * room[low]
            while top + wanted > x.size:
                x = np.concatenate((x, np.empty(x.size, x.dtype)))
                y = np.concatenate((y, np.empty(y.size, y.dtype)))
            for j in range(count):
                x[top + j] = x[origin + j]
                y[top + j] = y[origin + j]
            left = left - origin + top
            origin = top
            start[low] = top
            room[low] = wanted
            top += wanted
        if covered == 0:
            for j in range(origin + count, left, -1):
                x[j] = x[j - 1]
                y[j] = y[j - 1]
        elif covered > 1:
            for j in range(end, origin + count):
                x[j - covered + 1] = x[j]
                y[j - covered + 1] = y[j]
        length[low] = count + 1 - covered
        x[left] = a
        y[left] = b
    return ranks
