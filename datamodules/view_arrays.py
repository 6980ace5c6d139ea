"""Pixel operations of the views in numpy: the readable definition, and the stand-in where numba is missing.

Planes are float32 [3, S, S] (red, green, blue) and hold whole numbers 0..255 between operations, as Pillow's bytes
do. Every expression has the order of `view_kernels`, so that the results are equal to the last bit.
"""

import numpy as np

GREY = np.array([19595, 38470, 7471], dtype=np.float32)  # Pillow's luma in 1 / 65536; sums stay exact in float32
HALF = np.float32(0.5)


def resize(
    image: np.ndarray,
    top: int,
    left: int,
    width: int,
    rows: np.ndarray,
    row_weights: np.ndarray,
    columns: np.ndarray,
    column_weights: np.ndarray,
    planes: np.ndarray,
) -> None:
    """Resizes a crop of image (uint8 [H, W, 3], contiguous) into planes, with the taps of `views.resize_taps`."""
    crop = image[top:, left : left + width]
    tall = np.zeros((len(rows), width, 3), dtype=np.float32)
    for tap in range(row_weights.shape[1]):
        tall += row_weights[:, tap, None, None] * crop[rows + tap].astype(np.float32)
    wide = np.zeros((len(rows), len(columns), 3), dtype=np.float32)
    for tap in range(column_weights.shape[1]):
        wide += column_weights[:, tap, None] * tall[:, columns + tap]
    planes[...] = np.clip(np.floor(wide + HALF), 0, 255).transpose(2, 0, 1)


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


def grey(planes: np.ndarray) -> None:
    """Replaces the colours by their grey value, in place."""
    planes[...] = luma(planes)


def blur(planes: np.ndarray, weights: np.ndarray) -> None:
    """Gaussian blur in place, rows then columns, the edge pixels repeated outside."""
    radius, size = len(weights) // 2, planes.shape[1]
    for axis in (1, 2):
        padding = [(0, 0), (0, 0), (0, 0)]
        padding[axis] = (radius, radius)
        padded = np.pad(planes, padding, mode="edge")
        total = np.zeros_like(planes)
        for tap, weight in enumerate(weights):
            total += weight * padded.take(range(tap, tap + size), axis=axis)
        planes[...] = total
    planes[...] = np.floor(planes + HALF)


def store(planes: np.ndarray, threshold: int, flip: bool, out: np.ndarray) -> None:
    """Inverts values from `threshold` on, mirrors if `flip`, and writes bytes to out (uint8 [3, S, S])."""
    values = np.where(planes >= threshold, 255 - planes, planes).astype(np.uint8)
    out[...] = values[:, :, ::-1] if flip else values
