"""Pixel operations of the views in numpy: the readable definition, and the stand-in where numba is missing.

Planes are float32 [3, S, S] (red, green, blue) and hold whole numbers 0..255 between operations, as Pillow's bytes
do. Every expression has the order of `view_kernels`, so that the results are equal to the last bit.
"""

import math

import numpy as np

GREY = np.array([19595, 38470, 7471], dtype=np.float32)  # Pillow's luma in 1 / 65536; sums stay exact in float32
HALF = np.float32(0.5)
WEIGHT_BITS = 22  # of Pillow's fixed point


def resize_taps(start: float, length: float, limit: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """First input position int64 [size] and weights int32 [size, taps] of an antialiased linear resize.

    start, length: what is resized, within `limit` input pixels; need not be whole. A triangle as wide as the larger of
    the input's and the output's step, in fixed point of 22 bits, as in Pillow. Unused taps have weight 0, and no tap
    lies outside the input.
    """
    scale = length / size
    width = max(scale, 1.0)
    count = min(math.ceil(width) * 2 + 1, limit)
    centres = start + (np.arange(size) + 0.5) * scale
    first = np.maximum((centres - width + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + width + 0.5).astype(np.int64), limit)
    places = np.minimum(first, limit - count)
    positions = places[:, None] + np.arange(count)
    shares = np.maximum(1.0 - np.abs((positions - centres[:, None] + 0.5) * (1.0 / width)), 0.0)
    shares[(positions < first[:, None]) | (positions >= last[:, None])] = 0.0
    total = np.zeros(size)
    for tap in range(count):
        total += shares[:, tap]
    return places, (shares / total[:, None] * (1 << WEIGHT_BITS) + 0.5).astype(np.int32)


def resize(image: np.ndarray, top: float, left: float, height: float, width: float, planes: np.ndarray) -> None:
    """Resizes a crop of image (uint8 [H, W, 3], contiguous) into planes; each pixel is Pillow's.

    Along the rows first, then along the columns, with bytes between the two. The crop need not begin and end on
    whole pixels; those that it touches are all that is used.
    """
    size = planes.shape[1]
    first_row, first_column = math.floor(top), math.floor(left)
    crop = image[first_row : math.ceil(top + height), first_column : math.ceil(left + width)].astype(np.int32)
    columns, weights = resize_taps(left - first_column, width, crop.shape[1], size)
    between = np.full((len(crop), size, 3), 1 << (WEIGHT_BITS - 1), dtype=np.int32)
    for tap in range(weights.shape[1]):
        between += weights[:, tap, None] * crop[:, columns + tap]
    between >>= WEIGHT_BITS
    rows, weights = resize_taps(top - first_row, height, len(crop), size)
    total = np.full((size, size, 3), 1 << (WEIGHT_BITS - 1), dtype=np.int32)
    for tap in range(weights.shape[1]):
        total += weights[:, tap, None, None] * between[rows + tap]
    planes[...] = (total >> WEIGHT_BITS).transpose(2, 0, 1)


def luma(planes: np.ndarray) -> np.ndarray:
    """Grey value of each pixel, rounded as Pillow rounds it."""
    total = GREY[0] * planes[0] + GREY[1] * planes[1] + GREY[2] * planes[2]
    return np.floor((total + np.float32(32768)) * np.float32(1 / 65536))


def jitter(planes: np.ndarray, order: np.ndarray, factors: np.ndarray) -> None:
    """Brightness, contrast, saturation and hue (0 to 3) in the given order, in place."""
    for operation in order:
        factor = factors[operation]
        if operation == 3:
            _shift_hue(planes, factor)
            continue
        if operation == 0:
            base: np.ndarray | np.float32 = np.float32(0)
        elif operation == 1:
            grey_sum = int(luma(planes).astype(np.int64).sum())
            base = np.float32(np.floor(grey_sum / planes[0].size + 0.5))
        else:
            base = luma(planes)
        planes[...] = np.floor(np.clip(base + factor * (planes - base), 0, 255))


def _shift_hue(planes: np.ndarray, shift: np.float32) -> None:
    """Turns the colour circle by `shift` of a full turn: HSV's formula without leaving red, green and blue."""
    red, green, blue = planes
    largest, smallest = planes.max(axis=0), planes.min(axis=0)
    chroma = largest - smallest
    inverse = np.float32(1) / np.maximum(chroma, np.float32(1))
    sextant = np.where(
        largest == red,
        (green - blue) * inverse,
        np.where(
            largest == green,
            np.float32(2) + (blue - red) * inverse,
            np.float32(4) + (red - green) * inverse,
        ),
    )
    sextant = sextant + np.float32(6) * shift
    for plane, offset in zip(planes, (5, 3, 1), strict=True):
        place = sextant + np.float32(offset)
        place = place - np.float32(6) * np.floor(place * np.float32(1 / 6))
        share = np.maximum(np.float32(0), np.minimum(np.float32(1), np.minimum(place, np.float32(4) - place)))
        plane[...] = np.floor(largest - chroma * share + HALF)


def finish(planes: np.ndarray, grey: bool, weights: np.ndarray, threshold: int, flip: bool, out: np.ndarray) -> None:
    """Grey, blur, solarise and mirror, written as bytes to out (uint8 [3, S, S]); planes are used up.

    grey: whether the colours go. weights: of the blur's middle and of the pixels to one side, float32 [radius + 1];
    the edge pixels are repeated outside. threshold: values from it on are inverted.
    """
    if grey:
        planes[...] = luma(planes)
    if len(weights) > 1:
        for axis in (1, 2):
            planes[...] = _blurred(planes, weights, axis)
        planes[...] = np.floor(planes + HALF)
    values = np.where(planes >= threshold, 255 - planes, planes).astype(np.uint8)
    out[...] = values[:, :, ::-1] if flip else values


def _blurred(planes: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    radius, size = len(weights) - 1, planes.shape[1]
    padding = [(0, 0), (0, 0), (0, 0)]
    padding[axis] = (radius, radius)
    padded = np.pad(planes, padding, mode="edge")

    def shifted(places: int) -> np.ndarray:
        return padded.take(range(radius + places, radius + places + size), axis=axis)

    total = weights[0] * planes
    for tap in range(1, radius + 1):
        total = total + weights[tap] * (shifted(-tap) + shifted(tap))
    return total
