"""Pixel operations of the views as numba kernels; `view_arrays` says what each computes, with equal results.

Imported only where numba is installed. No fastmath: the compiler may not reorder or fuse, which keeps both twins
equal to the last bit; the loops run over contiguous floats, so they still become vector instructions.
"""

import numba
import numpy as np

LANES = 16  # rows resized at once: one vector of float32 with AVX-512, two with AVX2

_f = np.float32
HALF, ZERO, ONE, FULL = _f(0.5), _f(0), _f(1), _f(255)
RED, GREEN, BLUE = _f(19595), _f(38470), _f(7471)
LUMA_ROUND, LUMA_SCALE = _f(32768), _f(1 / 65536)
SIX, SIXTH, TWO, FOUR, FIVE, THREE = _f(6), _f(1 / 6), _f(2), _f(4), _f(5), _f(3)


@numba.njit(cache=True, nogil=True)
def resize(image, top, left, width, rows, row_weights, columns, column_weights, planes):  # type: ignore[no-untyped-def]
    """See view_arrays.resize. Rows first, in blocks that are turned so that columns, too, are vector operations."""
    size, width, left = planes.shape[1], width * 3, left * 3
    lines = image.reshape(image.shape[0], image.shape[1] * 3)  # whole rows: a cropped view would not be contiguous
    tall = np.empty((LANES, width), dtype=np.float32)
    turned = np.empty((width, LANES), dtype=np.float32)
    total = np.empty(LANES, dtype=np.float32)
    for start in range(0, size, LANES):
        count = min(LANES, size - start)
        for lane in range(count):
            line = tall[lane]
            line[:] = ZERO
            for tap in range(row_weights.shape[1]):
                weight = row_weights[start + lane, tap]
                source = lines[top + rows[start + lane] + tap, left : left + width]
                if weight != ZERO:
                    for i in range(width):
                        line[i] += weight * _f(source[i])
        for i in range(width):
            for lane in range(LANES):
                turned[i, lane] = tall[lane, i]
        for column in range(size):
            for channel in range(3):
                total[:] = ZERO
                for tap in range(column_weights.shape[1]):
                    weight = column_weights[column, tap]
                    source_lanes = turned[3 * (columns[column] + tap) + channel]
                    for lane in range(LANES):
                        total[lane] += weight * source_lanes[lane]
                for lane in range(count):
                    planes[channel, start + lane, column] = max(ZERO, min(FULL, np.floor(total[lane] + HALF)))


@numba.njit(cache=True, nogil=True, inline="always")
def _luma(red, green, blue):  # type: ignore[no-untyped-def]
    return np.floor((RED * red + GREEN * green + BLUE * blue + LUMA_ROUND) * LUMA_SCALE)


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
def jitter(planes, order, factors):  # type: ignore[no-untyped-def]
    """See view_arrays.jitter."""
    red, green, blue = planes[0].reshape(-1), planes[1].reshape(-1), planes[2].reshape(-1)
    for operation in order:
        factor = factors[operation]
        if operation == 2:
            _saturate(red, green, blue, factor)
        elif operation == 3:
            _shift_hue(red, green, blue, factor)
        else:
            base = ZERO
            if operation == 1:
                total = np.int64(0)
                for i in range(red.size):
                    total += np.int64(_luma(red[i], green[i], blue[i]))
                base = _f(np.floor(total / red.size + 0.5))
            _blend(red, base, factor)
            _blend(green, base, factor)
            _blend(blue, base, factor)


@numba.njit(cache=True, nogil=True)
def grey(planes):  # type: ignore[no-untyped-def]
    """See view_arrays.grey."""
    red, green, blue = planes[0].reshape(-1), planes[1].reshape(-1), planes[2].reshape(-1)
    for i in range(red.size):
        value = _luma(red[i], green[i], blue[i])
        red[i] = value
        green[i] = value
        blue[i] = value


@numba.njit(cache=True, nogil=True)
def blur(planes, weights):  # type: ignore[no-untyped-def]
    """See view_arrays.blur."""
    size, radius = planes.shape[1], weights.size // 2
    tall = np.empty((size, size), dtype=np.float32)
    padded = np.empty(size + 2 * radius, dtype=np.float32)
    for channel in range(3):
        plane = planes[channel]
        for y in range(size):
            line = tall[y]
            line[:] = ZERO
            for tap in range(weights.size):
                weight = weights[tap]
                source = plane[min(max(y + tap - radius, 0), size - 1)]
                for x in range(size):
                    line[x] += weight * source[x]
        for y in range(size):
            padded[:radius] = tall[y, 0]
            padded[radius : radius + size] = tall[y]
            padded[radius + size :] = tall[y, size - 1]
            line = plane[y]
            line[:] = ZERO
            for tap in range(weights.size):
                weight = weights[tap]
                shifted = padded[tap : tap + size]
                for x in range(size):
                    line[x] += weight * shifted[x]
            for x in range(size):
                line[x] = np.floor(line[x] + HALF)


@numba.njit(cache=True, nogil=True)
def store(planes, threshold, flip, out):  # type: ignore[no-untyped-def]
    """See view_arrays.store."""
    size, limit = planes.shape[1], _f(threshold)
    for channel in range(3):
        for y in range(size):
            source, target = planes[channel, y], out[channel, y]
            for x in range(size):
                value = source[x]
                target[x] = np.uint8(FULL - value if value >= limit else value)
            if flip:
                target[:] = target[::-1].copy()
