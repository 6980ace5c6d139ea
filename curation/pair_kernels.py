"""Union-find and the scan of a tile of similarities, compiled by numba. Imported only where numba is installed.

`curation.components` and `curation.similar_pairs` hold the twins in numpy and scipy, with equal groups.
"""

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def _root(parents, row):  # type: ignore[no-untyped-def]
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = parents[row]
    return row


@numba.njit(cache=True, nogil=True)
def unite(parents, left, right):  # type: ignore[no-untyped-def]
    """Joins the trees of pairs; the smaller root stays, so that a root is the smallest row of its tree."""
    for pair in range(left.size):
        a, b = _root(parents, left[pair]), _root(parents, right[pair])
        parents[max(a, b)] = min(a, b)


@numba.njit(cache=True, nogil=True)
def flatten(parents):  # type: ignore[no-untyped-def]
    """The root of every row."""
    labels = np.empty_like(parents)
    for row in range(parents.size):
        labels[row] = _root(parents, row)
    return labels


@numba.njit(cache=True, nogil=True)
def scan(bits, top, first, possible, certain, begin, parents, left, right):  # type: ignore[no-untyped-def]
    """Joins pairs of a tile that are certain; those that are only possible and not yet joined go to left and right.

    bits: [A, B] similarities as ordered integers, of rows top... and first...; only pairs above the diagonal count.
    Starts at row `begin` of the tile; returns (row where it stopped for want of room, or A; pairs written).
    """
    count = 0
    rows, columns = bits.shape
    for a in range(begin, rows):
        line = bits[a]
        highest = line[0]
        for b in range(columns):  # one vectorised pass; most rows of a tile have no pair
            highest = max(highest, line[b])
        if highest < possible:
            continue
        if count + columns > left.size:
            return a, count
        row = top + a
        for b in range(max(0, row + 1 - first), columns):
            if line[b] >= possible:
                mine, other = _root(parents, row), _root(parents, first + b)
                if mine == other:
                    continue
                if line[b] >= certain:
                    parents[max(mine, other)] = min(mine, other)
                else:
                    left[count], right[count] = row, first + b
                    count += 1
    return rows, count
