"""The scan of a tile of similarities for the most similar rows, compiled by numba. Imported only where it is installed.

`pas_train.evaluation.neighbours` holds the twin in torch, with equal results.
"""

import numba
import numpy as np

STEP = 32  # similarities that are compared at once


@numba.njit(cache=True, nogil=True)
def _shrink(values, rows, scratch, k):  # type: ignore[no-untyped-def]
    """Keeps the k largest in their order, of equal ones the first; returns the smallest of them.

    scratch: room for all values. The k-th largest is found by Hoare's selection.
    """
    count = values.size
    for place in range(count):
        scratch[place] = values[place]
    low, high, wanted = 0, count - 1, k - 1
    while low < high:
        pivot = scratch[(low + high) // 2]
        left, right = low, high
        while left <= right:
            while scratch[left] > pivot:
                left += 1
            while scratch[right] < pivot:
                right -= 1
            if left <= right:
                scratch[left], scratch[right] = scratch[right], scratch[left]
                left += 1
                right -= 1
        if wanted <= right:
            high = right
        elif wanted >= left:
            low = left
        else:
            break
    least = scratch[wanted]
    equal = k
    for place in range(count):
        equal -= values[place] > least
    kept = 0
    for place in range(count):
        value = values[place]
        if value > least or (value == least and equal > 0):
            equal -= value == least
            values[kept], rows[kept] = value, rows[place]
            kept += 1
    return least


@numba.njit(cache=True, nogil=True)
def scan(tile, first, k, values, rows, counts, least):  # type: ignore[no-untyped-def]
    """Collects the candidates of a tile [Q, B] whose columns are the bank's rows first...

    values, rows [Q, room], room > k: the candidates so far, counts [Q] of them, in order of the rows; least [Q]: what
    a further one must exceed. Tiles come in order of their columns.
    """
    queries, columns = tile.shape
    room = values.shape[1]
    scratch = np.empty(room, values.dtype)
    bits, limits = tile.view(np.int32), least.view(np.int32)
    for query in range(queries):
        line, whole = tile[query], bits[query]
        bound, count = least[query], counts[query]
        for begin in range(0, columns, STEP):
            end = min(begin + STEP, columns)
            if bound > 0:  # positive numbers are in order as integers, so that one vectorised pass finds the largest
                part = whole[begin:end]
                highest = part[0]
                for place in range(part.size):
                    highest = max(highest, part[place])
                if highest <= limits[query]:
                    continue
            for column in range(begin, end):
                if line[column] > bound:
                    values[query, count], rows[query, count] = line[column], first + column
                    count += 1
                    if count == room:
                        bound = _shrink(values[query], rows[query], scratch, k)
                        least[query], count = bound, k
        counts[query] = count
