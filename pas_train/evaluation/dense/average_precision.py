"""COCO's mean average precision of detected boxes, counted by pycocotools."""

import io
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np


def require_pycocotools() -> None:
    """Raises ValueError with the remedy where it is not installed."""
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError:
        raise ValueError(
            "evaluation.detection needs pycocotools, which is not installed: `pip install 'pas-train[dense]'`, or "
            "leave evaluation.detection out"
        ) from None


def coco_map(
    known: Sequence[np.ndarray], found: Sequence[np.ndarray], classes: Sequence[str],
    crowds: Sequence[np.ndarray] | None = None,
) -> dict[str, float]:  # fmt: skip
    """`map` (mean over IoU 0.50, 0.55 ... 0.95), `map50` and `map75`, shares in [0, 1]; means over the classes.

    known: [K, 5] of each image: x1, y1, x2, y2 in pixels and the place in classes; classes without a box do not count.
    found: [D, 6] of the same images: likewise, and the score. Of an image the best hundred count.
    crowds: [K, 5] of each image: regions where nobody counted, and what is found there is neither right nor wrong.
    Raises ValueError where no image has a box.
    """
    from pycocotools.cocoeval import COCOeval

    if not any(len(boxes) for boxes in known):
        raise ValueError(f"none of {len(known)} test images has a box, so that no detection can be right")
    with redirect_stdout(io.StringIO()):  # it tells of each of its steps
        counted = COCOeval(_table(known, classes, crowds or ()), _table(found, classes), "bbox")
        counted.evaluate()
        counted.accumulate()
        counted.summarize()
    return dict(zip(("map", "map50", "map75"), map(float, counted.stats), strict=False))


def _table(images: Sequence[np.ndarray], classes: Sequence[str], crowds: Sequence[np.ndarray] = ()) -> Any:
    """Boxes as pycocotools wants them."""
    from pycocotools.coco import COCO

    table = COCO()
    table.dataset = {
        "images": [{"id": number} for number in range(len(images))],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes)],
        "annotations": [
            {"id": number, **box}  # pycocotools takes a box of number 0 for none
            for number, box in enumerate([*_boxes(images, crowd=0), *_boxes(crowds, crowd=1)], start=1)
        ],
    }
    table.createIndex()
    return table


def _boxes(images: Sequence[np.ndarray], crowd: int) -> Iterable[dict[str, Any]]:
    for image, boxes in enumerate(images):
        for left, top, right, bottom, place, *score in np.asarray(boxes, np.float64).tolist():
            width, height = right - left, bottom - top
            yield {
                "image_id": image, "category_id": int(place), "bbox": [left, top, width, height],
                "area": width * height, "iscrowd": crowd, **({"score": score[0]} if score else {}),
            }  # fmt: skip
