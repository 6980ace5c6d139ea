"""Figures of ranked predictions: top-1, top-5, mean per class, and the interval that the test images allow."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

RANKS = 5
NORMAL_95 = 1.959963984540054


def largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row in falling order, and their columns; of equal ones the smaller column goes first."""
    if k == 1:
        columns = values.argmax(dim=1, keepdim=True)  # the first of equal ones
        return values.gather(1, columns), columns
    # topk promises no order of equal values; one more than k shows whether one was left out.
    top, columns = values.topk(min(k + 1, values.shape[1]), dim=1)
    tied = (top[:, 1:] == top[:, :-1]).any(dim=1)
    top, columns = top[:, :k], columns[:, :k]
    if tied.any():
        columns = columns.clone()
        columns[tied] = values[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
        top = values.gather(1, columns)
    return top, columns


def best_classes(scores: Tensor | np.ndarray, count: int = RANKS) -> np.ndarray:
    """The classes of the largest scores [T, C], best first: int64 [T, min(count, C)].

    A row with a score that is no number, as a training that diverged gives, has -1: it is never right.
    """
    values = torch.as_tensor(scores)
    lost = values.isnan().any(dim=1)
    best = largest(values, min(count, values.shape[1]))[1].masked_fill(lost[:, None], -1)
    return best.cpu().numpy()


def figures(ranked: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Shares of predictions that are right: `top1`, `top5`, `mean_per_class`, and the 95 % `interval` of top1.

    ranked: classes [T, R], best first, -1 where there is no further one; labels [T]. `top5` is left out where the
    protocol ranks fewer than five classes of more. `mean_per_class` is over the classes of the test images. Intervals
    are Wilson's, [low, high].
    """
    if len(ranked) != len(labels) or not len(labels):
        raise ValueError(f"{len(ranked)} predictions for {len(labels)} labels; both must be the same, and not none")
    right = ranked == labels[:, None]
    counts = np.bincount(labels)
    hits = np.bincount(labels, weights=right[:, 0])
    told: dict[str, Any] = {"top1": float(right[:, 0].mean())}
    if ranked.shape[1] >= min(RANKS, len(counts)):
        told["top5"] = float(right[:, :RANKS].any(axis=1).mean())
    told["mean_per_class"] = float((hits[counts > 0] / counts[counts > 0]).mean())
    told["interval"] = wilson(told["top1"], len(labels))
    return told


def over_seeds(parts: Sequence[dict[str, Any]], images: int) -> dict[str, Any]:
    """The mean of each figure of several seeds, and `seeds`, the top1 of each.

    The interval is that of the mean over the test images, not over the seeds: `compare` has those of `seeds`.
    """
    names = [name for name in ("top1", "top5", "mean_per_class") if name in parts[0]]
    told: dict[str, Any] = {name: float(np.mean([part[name] for part in parts])) for name in names}
    told["interval"] = wilson(told["top1"], images)
    if len(parts) > 1:
        told["seeds"] = [part["top1"] for part in parts]
    return told


def wilson(share: float, count: int) -> list[float]:
    """Wilson's 95 % interval of a share of count independent trials: [low, high]."""
    squared = NORMAL_95**2 / count
    centre = share + squared / 2
    spread = NORMAL_95 * math.sqrt(share * (1 - share) / count + squared / (4 * count))
    return [max(0.0, (centre - spread) / (1 + squared)), min(1.0, (centre + spread) / (1 + squared))]
