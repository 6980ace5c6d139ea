"""Pixel operations of the views as numba kernels; `view_arrays` says what each computes, with equal results.

Imported only where numba is installed. No fastmath: the compiler may not reorder or fuse, which keeps both twins
equal to the last bit. Loops run over contiguous memory with a length known at run time only, which is what the
compiler turns into vector instructions.
"""

import numba
import numpy as np

LANES = 32  # rows resized at once, a multiple of four; their turned copy stays in the fastest cache
BLOCK = 2048  # pixels that go through all colour changes at once, for the same reason
WEIGHT_BITS = 22  # of Pillow's fixed point

_f, _i = np.float32, np.int32
U = np.uint64  # places that are unsigned need no test for being negative, which would keep loops scalar
HALF, ZERO, ONE, FULL = _f(0.5), _f(0), _f(1), _f(255)
RED, GREEN, BLUE = _f(19595), _f(38470), _f(7471)
LUMA_ROUND, LUMA_SCALE = _f(32768), _f(1 / 65536)
SIX, SIXTH, TWO, FOUR, FIVE, THREE = _f(6), _f(1 / 6), _f(2), _f(4), _f(5), _f(3)
ROUND = _i(1 << (WEIGHT_BITS - 1))


@numba.njit(cache=True, nogil=True)
def resize_taps(start, length, limit, size):  # type: ignore[no-untyped-def]
    """See view_arrays.resize_taps."""
    scale = length / size
    width = max(scale, 1.0)
    count = min(int(np.ceil(width)) * 2 + 1, limit)
    places, weights = np.empty(size, dtype=np.int64), np.zeros((size, count), dtype=np.int32)
    shares = np.empty(count, dtype=np.float64)
    for place in range(size):
        centre = start + (place + 0.5) * scale
        first = max(int(centre - width + 0.5), 0)
        taps = min(int(centre + width + 0.5), limit) - first
        total = 0.0
        for tap in range(taps):
            shares[tap] = max(1.0 - abs((first + tap - centre + 0.5) * (1.0 / width)), 0.0)
            total += shares[tap]
        places[place] = min(first, limit - count)
        for tap in range(taps):
            weight = int(shares[tap] / total * (1 << WEIGHT_BITS) + 0.5)
            weights[place, first - places[place] + tap] = weight
    return places, weights


@numba.njit(cache=True, nogil=True)
def resize(image, top, left, height, width, planes):  # type: ignore[no-untyped-def]
    """See view_arrays.resize."""
    size, first_row, first_column = planes.shape[1], int(np.floor(top)), int(np.floor(left))
    touched_rows, touched_columns = int(np.ceil(top + height)) - first_row, int(np.ceil(left + width)) - first_column
    columns, column_weights = resize_taps(left - first_column, width, touched_columns, size)
    rows, row_weights = resize_taps(top - first_row, height, touched_rows, size)
    between = np.empty((3, touched_rows, size), dtype=np.uint8)
    _resize_rows(image, first_row, first_column, touched_columns, columns, column_weights, between)
    total = np.empty(size, dtype=np.int32)
    for channel in range(3):
        for y in range(size):
            total[:] = ROUND
            for tap in range(row_weights.shape[1]):
                weight, source = row_weights[y, tap], rows[y] + tap
                if weight != 0:
                    for x in range(size):
                        total[x] += weight * _i(between[channel, source, x])
            for x in range(size):
                planes[channel, y, x] = _f(total[x] >> WEIGHT_BITS)


@numba.njit(cache=True, nogil=True)
def _resize_rows(image, top, left, width, columns, weights, out):  # type: ignore[no-untyped-def]
    """Resizes each row of a crop of image (uint8 [H, W, 3]) into out (uint8 [3, height, size]).

    LANES rows at a time are turned, so that neighbours in memory have the same weights, and turned back.
    """
    height, size = out.shape[1], columns.size
    lines = image.reshape(image.shape[0], image.shape[1] * 3)  # whole rows: a cropped view would not be contiguous
    words = np.empty((8, max(3 * width, size)), dtype=np.uint32)
    turned = np.empty(3 * width * 8, dtype=np.uint32)
    pixels = turned.view(np.uint8).reshape(width, 3 * LANES)
    resized = np.empty((3, size, LANES), dtype=np.uint8)
    total = np.empty(3 * LANES, dtype=np.int32)
    for start in range(0, height, LANES):
        for group in range(8):
            _four_rows(
                lines, top + start + 4 * group, top + height - 1, 3 * left, 3 * width, words[group].view(np.uint8)
            )
        _mix_words(words, 3 * width, turned)
        for column in range(size):
            total[:] = ROUND
            for tap in range(weights.shape[1]):
                weight, source = weights[column, tap], columns[column] + tap
                if weight != 0:
                    for lane in range(total.size):
                        total[lane] += weight * _i(pixels[source, lane])
            for channel in range(3):
                offset = U(channel * LANES)
                for lane in range(U(LANES)):
                    resized[channel, column, lane] = np.uint8(total[offset + lane] >> WEIGHT_BITS)
        for channel in range(3):
            _part_words(resized[channel].reshape(-1).view(np.uint32), size, words)
            for group in range(8):
                _part_rows(words[group].view(np.uint8), start + 4 * group, out[channel])


@numba.njit(cache=True, nogil=True)
def _four_rows(lines, first, last, left, count, out):  # type: ignore[no-untyped-def]
    """The bytes of four rows in turn, from `first` on, those beyond `last` being the last."""
    a, b = lines[min(first, last), left : left + count], lines[min(first + 1, last), left : left + count]
    c, d = lines[min(first + 2, last), left : left + count], lines[min(first + 3, last), left : left + count]
    for i in range(count):
        out[4 * i] = a[i]
        out[4 * i + 1] = b[i]
        out[4 * i + 2] = c[i]
        out[4 * i + 3] = d[i]


@numba.njit(cache=True, nogil=True)
def _mix_words(words, count, out):  # type: ignore[no-untyped-def]
    for i in range(count):
        out[8 * i] = words[0, i]
        out[8 * i + 1] = words[1, i]
        out[8 * i + 2] = words[2, i]
        out[8 * i + 3] = words[3, i]
        out[8 * i + 4] = words[4, i]
        out[8 * i + 5] = words[5, i]
        out[8 * i + 6] = words[6, i]
        out[8 * i + 7] = words[7, i]


@numba.njit(cache=True, nogil=True)
def _part_words(mixed, count, out):  # type: ignore[no-untyped-def]
    for i in range(count):
        out[0, i] = mixed[8 * i]
        out[1, i] = mixed[8 * i + 1]
        out[2, i] = mixed[8 * i + 2]
        out[3, i] = mixed[8 * i + 3]
        out[4, i] = mixed[8 * i + 4]
        out[5, i] = mixed[8 * i + 5]
        out[6, i] = mixed[8 * i + 6]
        out[7, i] = mixed[8 * i + 7]


@numba.njit(cache=True, nogil=True)
def _part_rows(mixed, first, out):  # type: ignore[no-untyped-def]
    """Four rows of out, from `first` on, or as many as there are, from their bytes in turn."""
    height, count = out.shape
    if first + 4 > height:
        for row in range(first, height):
            for i in range(count):
                out[row, i] = mixed[4 * i + row - first]
        return
    a, b, c, d = out[first], out[first + 1], out[first + 2], out[first + 3]
    for i in range(count):
        a[i] = mixed[4 * i]
        b[i] = mixed[4 * i + 1]
        c[i] = mixed[4 * i + 2]
        d[i] = mixed[4 * i + 3]


@numba.njit(cache=True, nogil=True, inline="always")
def _luma(red, green, blue):  # type: ignore[no-untyped-def]
    return np.floor((RED * red + GREEN * green + BLUE * blue + LUMA_ROUND) * LUMA_SCALE)


@numba.njit(cache=True, nogil=True)
def _luma_sum(red, green, blue):  # type: ignore[no-untyped-def]
    total = np.int64(0)
    for i in range(red.size):
        total += np.int64(_luma(red[i], green[i], blue[i]))
    return total


@numba.njit(cache=True, nogil=True)
def _blend(plane, base, factor):  # type: ignore[no-untyped-def]
    for i in range(plane.size):
        plane[i] = np.floor(max(ZERO, min(FULL, base + factor * (plane[i] - base))))


@numba.njit(cache=True, nogil=True)
def _saturate(red, green, blue, factor):  # type: ignore[no-untyped-def]
    for i in range(red.size):
        base = _luma(red[i], green[i], blue[i])
        red[i] = np.floor(max(ZERO, min(FULL, base + factor * (red[i] - base))))
        green[i] = np.floor(max(ZERO, min(FULL, base + factor * (green[i] - base))))
        blue[i] = np.floor(max(ZERO, min(FULL, base + factor * (blue[i] - base))))


@numba.njit(cache=True, nogil=True, inline="always")
def _hue_channel(sextant, offset, largest, chroma):  # type: ignore[no-untyped-def]
    place = sextant + offset
    place = place - SIX * np.floor(place * SIXTH)
    share = max(ZERO, min(ONE, min(place, FOUR - place)))
    return np.floor(largest - chroma * share + HALF)


@numba.njit(cache=True, nogil=True)
def _shift_hue(reds, greens, blues, shift):  # type: ignore[no-untyped-def]
    turn = SIX * shift
    for i in range(reds.size):
        red, green, blue = reds[i], greens[i], blues[i]
        largest, smallest = max(red, max(green, blue)), min(red, min(green, blue))
        chroma = largest - smallest
        inverse = ONE / max(chroma, ONE)
        if_green = TWO + (blue - red) * inverse
        if_blue = FOUR + (red - green) * inverse
        other = if_green if largest == green else if_blue
        sextant = ((green - blue) * inverse if largest == red else other) + turn
        reds[i] = _hue_channel(sextant, FIVE, largest, chroma)
        greens[i] = _hue_channel(sextant, THREE, largest, chroma)
        blues[i] = _hue_channel(sextant, ONE, largest, chroma)


@numba.njit(cache=True, nogil=True)
def _change_colours(red, green, blue, order, factors, contrast_base):  # type: ignore[no-untyped-def]
    for operation in order:
        factor = factors[operation]
        if operation == 2:
            _saturate(red, green, blue, factor)
        elif operation == 3:
            _shift_hue(red, green, blue, factor)
        else:
            base = contrast_base if operation == 1 else ZERO
            _blend(red, base, factor)
            _blend(green, base, factor)
            _blend(blue, base, factor)


@numba.njit(cache=True, nogil=True)
def jitter(planes, order, factors):  # type: ignore[no-untyped-def]
    """See view_arrays.jitter. Block by block, but for contrast, which needs the mean of all that is before it."""
    reds, greens, blues = planes[0].reshape(-1), planes[1].reshape(-1), planes[2].reshape(-1)
    before = 0
    while before < order.size and order[before] != 1:
        before += 1
    base = ZERO
    if before < order.size:
        total = np.int64(0)
        for start in range(0, reds.size, BLOCK):
            block = slice(start, start + BLOCK)
            _change_colours(reds[block], greens[block], blues[block], order[:before], factors, ZERO)
            total += _luma_sum(reds[block], greens[block], blues[block])
        base = _f(np.floor(total / reds.size + 0.5))
        order = order[before:]
    for start in range(0, reds.size, BLOCK):
        block = slice(start, start + BLOCK)
        _change_colours(reds[block], greens[block], blues[block], order, factors, base)


@numba.njit(cache=True, nogil=True)
def finish(planes, grey, weights, threshold, flip, out):  # type: ignore[no-untyped-def]
    """See view_arrays.finish. Grey is computed once."""
    if grey:
        red, green, blue = planes[0].reshape(-1), planes[1].reshape(-1), planes[2].reshape(-1)
        for i in range(red.size):
            red[i] = _luma(red[i], green[i], blue[i])
    for channel in range(1 if grey else 3):
        if weights.size > 1:
            _blur(planes[channel], weights)
        _store(planes[channel], _f(threshold), flip, out[channel])
    if grey:
        out[1] = out[0]
        out[2] = out[0]


@numba.njit(cache=True, nogil=True)
def _blur(plane, weights):  # type: ignore[no-untyped-def]
    """With the edges repeated in memory, a pixel's neighbours in both directions are at fixed distances."""
    taps = np.zeros(1 + (weights.size + 1) // 3 * 3, dtype=np.float32)  # pairs three at a time, the rest without weight
    taps[: weights.size] = weights
    size, reach = plane.shape[0], taps.size - 1
    stride = size + 2 * reach
    padded, tall = np.empty((stride, stride), dtype=np.float32), np.empty((size, stride), dtype=np.float32)
    for y in range(stride):
        source, target = plane[min(max(y - reach, 0), size - 1)], padded[y]
        target[:reach] = source[0]
        for x in range(size):
            target[reach + x] = source[x]
        target[reach + size :] = source[size - 1]
    _sum_pairs(padded.reshape(-1), reach * stride, size * stride, stride, taps, tall.reshape(-1))
    _sum_pairs(tall.reshape(-1), reach, size * stride - 2 * reach, 1, taps, padded.reshape(-1))
    for y in range(size):
        source, target = padded[y], plane[y]
        for x in range(size):
            target[x] = np.floor(source[x] + HALF)


@numba.njit(cache=True, nogil=True)
def _sum_pairs(source, start, count, step, taps, out):  # type: ignore[no-untyped-def]
    """out[i] = taps[0] * source[start + i] + ... + taps[k] * the two that lie k steps before and after it."""
    middle, total = source[start : start + count], out[:count]
    for tap in range(1, taps.size, 3):
        a, b = source[start - tap * step :], source[start + tap * step :]
        c, d = source[start - (tap + 1) * step :], source[start + (tap + 1) * step :]
        e, f = source[start - (tap + 2) * step :], source[start + (tap + 2) * step :]
        zeroth, first, second, third = taps[0], taps[tap], taps[tap + 1], taps[tap + 2]
        if tap == 1:
            for i in range(count):
                pairs = zeroth * middle[i] + first * (a[i] + b[i])
                total[i] = pairs + second * (c[i] + d[i]) + third * (e[i] + f[i])
        else:
            for i in range(count):
                total[i] = total[i] + first * (a[i] + b[i]) + second * (c[i] + d[i]) + third * (e[i] + f[i])


@numba.njit(cache=True, nogil=True)
def _store(plane, limit, flip, out):  # type: ignore[no-untyped-def]
    size = U(plane.shape[1])
    for y in range(plane.shape[0]):
        if flip:
            for x in range(size):
                value = plane[y, size - U(1) - x]
                out[y, x] = np.uint8(_i(FULL - value if value >= limit else value))
        else:
            for x in range(size):
                value = plane[y, x]
                out[y, x] = np.uint8(_i(FULL - value if value >= limit else value))
