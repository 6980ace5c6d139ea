"""The sweep of `curation.pareto` compiled by numba, with equal results. Imported only where numba is installed.

All stairs live in one pool, a block a front; a full block moves to the end of the pool with twice the room. An
insertion shifts the stairs behind it, which would be quadratic for a front of a million stairs (two scores that add up
to a constant). So a front holds at most LIVE stairs that shift; when they are full they are merged into a second block
of the same front that only merges change. Both blocks are asked whether they dominate a row.
"""

import numba
import numpy as np

LIVE = 2048
# Columns of the table of blocks: place in the pool, stairs, room; first of the live block, then of the settled one.
START, COUNT, ROOM, SETTLED = 0, 1, 2, 3


@numba.njit(cache=True, nogil=True)
def _covers(xs, ys, start, count, x, y):  # type: ignore[no-untyped-def]
    """Whether a stair at or before x is at or below y."""
    left, right = start, start + count
    while left < right:
        middle = (left + right) >> 1
        if xs[middle] <= x:
            left = middle + 1
        else:
            right = middle
    return left > start and ys[left - 1] <= y


@numba.njit(cache=True, nogil=True)
def _first_free(xs, ys, blocks, fronts, x, y):  # type: ignore[no-untyped-def]
    """The first front that does not dominate (x, y)."""
    # Indexed cell by cell: a view of a row costs two atomic counts, a quarter of the sweep.
    low, high = 0, fronts
    while low < high:
        rank = (low + high) >> 1
        dominates = _covers(xs, ys, blocks[rank, START], blocks[rank, COUNT], x, y)
        settled = blocks[rank, SETTLED + COUNT]
        if not dominates and settled > 0:
            dominates = _covers(xs, ys, blocks[rank, SETTLED + START], settled, x, y)
        if dominates:
            low = rank + 1
        else:
            high = rank
    return low


@numba.njit(cache=True, nogil=True)
def _reserve(xs, ys, top, block, room):  # type: ignore[no-untyped-def]
    """Moves a block (its three numbers) to the end of the pool, with the room; returns pool and end."""
    while top + room > xs.size:
        xs = np.concatenate((xs, np.empty_like(xs)))
        ys = np.concatenate((ys, np.empty_like(ys)))
    start, count = block[START], block[COUNT]
    xs[top : top + count] = xs[start : start + count]
    ys[top : top + count] = ys[start : start + count]
    block[START], block[ROOM] = top, room
    return xs, ys, top + room


@numba.njit(cache=True, nogil=True)
def _settle(xs, ys, top, block):  # type: ignore[no-untyped-def]
    """Merges a front's live stairs into its settled ones."""
    live, settled = block[:SETTLED], block[SETTLED:]
    i, end_i = live[START], live[START] + live[COUNT]
    j, end_j = settled[START], settled[START] + settled[COUNT]
    merged_x = np.empty(live[COUNT] + settled[COUNT], xs.dtype)
    merged_y = np.empty(merged_x.size, ys.dtype)
    count = 0
    while i < end_i or j < end_j:
        if j == end_j or (i < end_i and (xs[i] < xs[j] or (xs[i] == xs[j] and ys[i] <= ys[j]))):
            x, y = xs[i], ys[i]
            i += 1
        else:
            x, y = xs[j], ys[j]
            j += 1
        if count == 0 or y < merged_y[count - 1]:  # else covered
            merged_x[count], merged_y[count] = x, y
            count += 1
    live[COUNT] = 0
    settled[COUNT] = 0
    if count > settled[ROOM]:
        xs, ys, top = _reserve(xs, ys, top, settled, 2 * count)
    settled[COUNT] = count
    xs[settled[START] : settled[START] + count] = merged_x[:count]
    ys[settled[START] : settled[START] + count] = merged_y[:count]
    return xs, ys, top


@numba.njit(cache=True, nogil=True)
def _insert(xs, ys, blocks, rank, x, y):  # type: ignore[no-untyped-def]
    """Puts a stair into a live block that has room, in place of those that it covers."""
    left = blocks[rank, START]
    stop = right = left + blocks[rank, COUNT]
    while left < right:
        middle = (left + right) >> 1
        if xs[middle] < x:
            left = middle + 1
        else:
            right = middle
    end = left
    while end < stop and ys[end] >= y:
        end += 1
    covered = end - left
    if covered == 0:
        for place in range(stop, left, -1):
            xs[place], ys[place] = xs[place - 1], ys[place - 1]
    elif covered > 1:
        for place in range(end, stop):
            xs[place - covered + 1], ys[place - covered + 1] = xs[place], ys[place]
    xs[left], ys[left] = x, y
    blocks[rank, COUNT] += 1 - covered


@numba.njit(cache=True, nogil=True)
def sweep(first, second, third, max_rank):  # type: ignore[no-untyped-def]
    """See curation.pareto.sweep."""
    count = first.size
    ranks = np.empty(count, np.int32)
    xs = np.empty(max(1024, count), second.dtype)
    ys = np.empty(max(1024, count), third.dtype)
    blocks = np.zeros((1024, 6), np.int64)
    top = fronts = 0
    for row in range(count):
        x, y = second[row], third[row]
        if row > 0 and first[row] == first[row - 1] and x == second[row - 1] and y == third[row - 1]:
            ranks[row] = ranks[row - 1]
            continue
        rank = _first_free(xs, ys, blocks, fronts, x, y)
        ranks[row] = rank
        if max_rank > 0 and rank >= max_rank:
            continue
        if rank == fronts:
            if fronts == len(blocks):
                blocks = np.concatenate((blocks, np.zeros_like(blocks)))
            fronts += 1
        if blocks[rank, COUNT] == LIVE:
            xs, ys, top = _settle(xs, ys, top, blocks[rank])
        room = blocks[rank, ROOM]
        if blocks[rank, COUNT] == room:
            xs, ys, top = _reserve(xs, ys, top, blocks[rank, :SETTLED], max(4, 2 * room))
        _insert(xs, ys, blocks, rank, x, y)
    return ranks
