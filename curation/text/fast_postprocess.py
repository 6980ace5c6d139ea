"""From FAST's map of text kernels to polygons."""

from dataclasses import dataclass

import numpy as np

POOLING = 7  # px at full size: how far the training shrank the words (fast_tiny_tt_512)


@dataclass(frozen=True)
class Word:
    """A region of text. polygon: int32 [K, 2], (x, y) in the network's input. score: mean probability, in (0, 1)."""

    polygon: np.ndarray
    score: float


def find_words(logits: np.ndarray, min_score: float = 0.85, min_area: int = 200) -> list[Word]:
    """The words in one image's text logits float32 [H / 4, W / 4].

    FAST's post-processing at inference, with the thresholds of Total-Text (fast_tiny_tt_512_finetune_ic17mlt), which
    T-MARS and the paper take: connected components (8 neighbours) of logit > 0; labels and logits are repeated to half
    the input size, max-pooled with a window of 4 (so that words grow back to their size; where two meet, the later
    component wins), and repeated to the input size H x W. A component is dropped with fewer than min_area pixels
    or with a mean probability below min_score; its polygon is its first outer contour.
    """
    import cv2

    count, small = cv2.connectedComponents((logits > 0).astype(np.uint8), connectivity=8, ltype=cv2.CV_16U)
    if count == 1:
        return []
    labels = _pooled(small)
    # Pixels of the input that repeat a cell, so that sums over H x W are sums over the cells.
    sides = (logits.shape[0] * 4, logits.shape[1] * 4)
    rows, columns = (_sources(side, cells) for side, cells in zip(sides, labels.shape, strict=True))
    repeats = np.outer(*(np.bincount(sources) for sources in (rows, columns)))
    area = np.bincount(labels.ravel(), repeats.ravel(), count)
    probability = 1 / (1 + np.exp(-_pooled(logits.astype(np.float32)).astype(np.float64)))
    score = np.bincount(labels.ravel(), (repeats * probability).ravel(), count) / np.maximum(area, 1)
    keep = np.flatnonzero((area >= max(min_area, 1)) & (score >= min_score))
    return [Word(_contour(np.asarray(labels == label), rows, columns), float(score[label])) for label in keep if label]


def _pooled(cells: np.ndarray) -> np.ndarray:
    """Cells [h, w] repeated to [2 h, 2 w], then the maximum in windows, stride 1: [2 h - 1, 2 w - 1]."""
    import cv2

    window, padding = POOLING // 2 + 1, (POOLING // 2) // 2
    doubled = cells.repeat(2, axis=0).repeat(2, axis=1)
    # The anchor is the window's cell that lies at the output's place; beyond the border nothing counts.
    grown = cv2.dilate(doubled, np.ones((window, window), np.uint8), anchor=(padding, padding))
    lost = window - 1 - 2 * padding
    return grown[: grown.shape[0] - lost, : grown.shape[1] - lost]


def _sources(side: int, cells: int) -> np.ndarray:
    """Int64 [side]: the cell that each pixel repeats ("nearest" as torch rounds it: down)."""
    return np.minimum((np.arange(side, dtype=np.float32) * np.float32(cells / side)).astype(np.int64), cells - 1)


def _contour(mask: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """First outer contour int32 [K, 2] of a mask of cells, in pixels of the input."""
    import cv2

    tall, wide = (
        np.flatnonzero(np.take(mask.any(axis=1 - axis), sources)) for axis, sources in enumerate((rows, columns))
    )
    top, bottom, left, right = tall[0], tall[-1] + 1, wide[0], wide[-1] + 1
    pixels = mask[rows[top:bottom, None], columns[left:right]].astype(np.uint8)
    contours, _ = cv2.findContours(pixels, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(int(left), int(top)))
    return np.asarray(contours[0], np.int32).reshape(-1, 2)
