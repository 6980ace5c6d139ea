"""The cheap figures of the SELECT benchmark (paper 2410.05057): classes present, rare classes, share of the largest."""

import math
from typing import Any

import numpy as np

from pas_train.analysis.sets import NONE, ImageSet

RARE = 500  # images below which a class is one of the tail
TOP = 0.05  # share of the classes that are its head


def class_counts(labels: np.ndarray, classes: int) -> np.ndarray:
    """int64 [C]: images of each class; those without one (below 0) count for none."""
    return np.bincount(labels[labels >= 0], minlength=classes)


def balance(counts: np.ndarray) -> dict[str, Any]:
    """coverage: share of the classes that have an image; lt_500: classes with fewer than 500, those with none too, and
    their share; ls_5pct: share of the images that the largest 5 % of the classes hold (of few classes the largest one);
    entropy: of the shares over that of equal ones, 1 when balanced.
    """  # noqa: D205
    classes, total = len(counts), int(counts.sum())
    if not classes:
        return {}
    top = np.sort(counts)[::-1][: max(1, math.ceil(TOP * classes - 1e-9))]
    shares = counts[counts > 0] / max(total, 1)
    entropy = float(-(shares * np.log(shares)).sum() / math.log(classes)) if classes > 1 and total else 1.0
    return {
        "classes": classes,
        "present": int((counts > 0).sum()),
        "coverage": float((counts > 0).mean()),
        f"lt_{RARE}": int((counts < RARE).sum()),
        f"lt_{RARE}_share": float((counts < RARE).mean()),
        "ls_5pct": float(top.sum() / total) if total else None,
        "balance": entropy,
    }


def set_figures(images: ImageSet) -> dict[str, Any]:
    """Size by source, and the figures of all images, of the real and of the synthetic ones."""
    synthetic = images.synthetic
    figures: dict[str, Any] = {
        "name": images.name, "source": images.source, "images": len(images), "real": int((~synthetic).sum()),
        "synthetic": int(synthetic.sum()), "kind": images.kind or None,
        "without_class": int((images.labels == NONE).sum()) if images.kind else None,
    }  # fmt: skip
    if images.kind:
        masks = {"all": np.ones(len(images), bool), "real": ~synthetic, "synthetic": synthetic}
        figures["balance"] = {
            name: balance(class_counts(images.labels[mask], len(images.classes)))
            for name, mask in masks.items()
            if name == "all" or (mask.any() and synthetic.any())
        }
    return figures
