"""The sweep of `curation.pareto` compiled by numba, with equal results. Imported only where numba is installed.

All stairs live in one pool, a block a front; a full block moves to the end of the pool with twice the room. An
insertion shifts the stairs behind it, which would be quadratic for a front of a million stairs (two scores that add up
to a constant). So a front holds at most LIVE stairs that shift. When they are full they are merged into settled levels
of the same front, each RATIO times as large as the one before, as in a log-structured merge tree: a stair is moved
O(log N) times in all. Every level is asked whether it dominates a row.
"""

import numba
import numpy as np

LIVE, RATIO, LEVELS = 1024, 8, 8
# Columns of a block: place in the pool, stairs, room; of a front also its row in the table of settled levels, or -1.
START, COUNT, ROOM, DEEP = 0, 1, 2, 3


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
def _first_free(xs, ys, blocks, settled, fronts, x, y):  # type: ignore[no-untyped-def]
    """The first front that does not dominate (x, y)."""
    # Indexed cell by cell: a view of a row costs two atomic counts, a quarter of the sweep.
    low, high = 0, fronts
    while low < high:
        rank = (low + high) >> 1
        dominates = _covers(xs, ys, blocks[rank, START], blocks[rank, COUNT], x, y)
        deep = blocks[rank, DEEP]
        if not dominates and deep >= 0:
            for level in range(LEVELS):
                if _covers(xs, ys, settled[deep, level, START], settled[deep, level, COUNT], x, y):
                    dominates = True
                    break
        if dominates:
            low = rank + 1
        else:
            high = rank
    return low


@numba.njit(cache=True, nogil=True)
def _reserve(xs, ys, top, block, room):  # type: ignore[no-untyped-def]
    """Moves a block to the end of the pool, with the room; returns pool and end."""
    while top + room > xs.size:
        xs = np.concatenate((xs, np.empty_like(xs)))
        ys = np.concatenate((ys, np.empty_like(ys)))
    start, count = block[START], block[COUNT]
    xs[top : top + count] = xs[start : start + count]
    ys[top : top + count] = ys[start : start + count]
    block[START], block[ROOM] = top, room
    return xs, ys, top + room


@numba.njit(cache=True, nogil=True)
def _merge(xs, ys, other_x, other_y):  # type: ignore[no-untyped-def]
    """The stairs of two staircases that neither covers, x ascending."""
    merged_x = np.empty(xs.size + other_x.size, xs.dtype)
    merged_y = np.empty(merged_x.size, ys.dtype)
    i = j = count = 0
    while i < xs.size or j < other_x.size:
        if j == other_x.size or (i < xs.size and (xs[i] < other_x[j] or (xs[i] == other_x[j] and ys[i] <= other_y[j]))):
            x, y = xs[i], ys[i]
            i += 1
        else:
            x, y = other_x[j], other_y[j]
            j += 1
        if count == 0 or y < merged_y[count - 1]:  # else covered
            merged_x[count], merged_y[count] = x, y
            count += 1
    return merged_x[:count], merged_y[:count]


@numba.njit(cache=True, nogil=True)
def _settle(xs, ys, top, live, levels):  # type: ignore[no-untyped-def]
    """Merges a front's live stairs into the first level that has room for them and for the levels before it."""
    start, end = live[START], live[START] + live[COUNT]
    stairs_x, stairs_y = xs[start:end].copy(), ys[start:end].copy()
    live[COUNT] = 0
    most = LIVE
    for level in range(LEVELS):
        most *= RATIO
        block = levels[level]
        start, end = block[START], block[START] + block[COUNT]
        stairs_x, stairs_y = _merge(stairs_x, stairs_y, xs[start:end], ys[start:end])
        block[COUNT] = 0
        count = stairs_x.size
        if count <= most or level == LEVELS - 1:
            if count > block[ROOM]:
                xs, ys, top = _reserve(xs, ys, top, block, 2 * count)
            block[COUNT] = count
            xs[block[START] : block[START] + count] = stairs_x
            ys[block[START] : block[START] + count] = stairs_y
            break
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
def sweep(first, second, third, limit, enough):  # type: ignore[no-untyped-def]
    """See curation.pareto.sweep."""
    count = first.size
    ranks = np.empty(count, np.int32)
    sizes = np.zeros(1024, np.int64)
    xs = np.empty(max(1024, count), second.dtype)
    ys = np.empty(max(1024, count), third.dtype)
    blocks = np.zeros((1024, 4), np.int64)
    settled = np.zeros((1, LEVELS, 3), np.int64)
    top = fronts = deep = 0
    before = 0  # rows in fronts below the limit, once every front below it is known
    for row in range(count):
        x, y = second[row], third[row]
        if row > 0 and first[row] == first[row - 1] and x == second[row - 1] and y == third[row - 1]:
            rank = ranks[row - 1]
        else:
            rank = _first_free(xs, ys, blocks, settled, fronts, x, y)
            if rank < limit:
                if rank == fronts:
                    if fronts == len(blocks):
                        blocks = np.concatenate((blocks, np.zeros_like(blocks)))
                        sizes = np.concatenate((sizes, np.zeros_like(sizes)))
                    blocks[rank, DEEP] = -1
                    fronts += 1
                if blocks[rank, COUNT] == LIVE:
                    if blocks[rank, DEEP] < 0:
                        if deep == len(settled):
                            settled = np.concatenate((settled, np.zeros_like(settled)))
                        blocks[rank, DEEP] = deep
                        deep += 1
                    xs, ys, top = _settle(xs, ys, top, blocks[rank], settled[blocks[rank, DEEP]])
                room = blocks[rank, ROOM]
                if blocks[rank, COUNT] == room:
                    xs, ys, top = _reserve(xs, ys, top, blocks[rank], max(4, 2 * room))
                _insert(xs, ys, blocks, rank, x, y)
        ranks[row] = rank
        if rank < limit:
            sizes[rank] += 1
            before += 1
            # A row's front is final, so the fronts before the last may hold enough already: the last is not needed.
            while before - sizes[min(limit, fronts) - 1] >= enough:
                limit = min(limit, fronts) - 1
                fronts = limit
                before -= sizes[limit]
    return np.minimum(ranks, limit)
