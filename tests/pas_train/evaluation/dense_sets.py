"""Small data sets with masks and with boxes, for what is judged on them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from pas_train.evaluation.evaluation_set import EvaluationSet

SIDE = 24


def _picture(folder: Path, number: int) -> None:
    pixels = np.full((SIDE, SIDE, 3), 20 + number, np.uint8)
    pixels[4:12, 6:16, number % 3] = 200
    Image.fromarray(pixels).save(folder / f"{number}.png")


def save_masked(folder: Path, name: str = "cloth") -> EvaluationSet:
    """Four training images and two test images of squares, as CSVs."""
    folder.mkdir(parents=True)
    (folder / "classes.txt").write_text("cloth\nred\nblue\n")
    for split, numbers in (("train", range(4)), ("test", range(4, 6))):
        for number in numbers:
            _picture(folder, number)
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[4:12, 6:16] = 1 + number % 2
            Image.fromarray(mask).save(folder / f"{number}-mask.png")
        rows = "".join(f"{number}.png,{number}-mask.png\n" for number in numbers)
        (folder / f"{split}.csv").write_text(f"path,mask\n{rows}")
    return EvaluationSet(name, str(folder / "train.csv"), str(folder / "test.csv"))


def save_boxed(folder: Path, name: str = "tray") -> EvaluationSet:
    """The same with boxes, as COCO JSON files beside a folder of the images; the last test image has none."""
    (folder / "images").mkdir(parents=True)
    for split, numbers in (("train", range(4)), ("test", range(4, 6))):
        images = [{"id": number, "file_name": f"{number}.png"} for number in numbers]
        boxes = [
            {"id": number, "image_id": number, "category_id": 1 + number % 2, "bbox": [6, 4, 10, 8]}
            for number in numbers if number != 5
        ]  # fmt: skip
        kinds = [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]
        content = {"images": images, "annotations": boxes, "categories": kinds}
        (folder / f"{split}.json").write_text(json.dumps(content))
        for number in numbers:
            _picture(folder / "images", number)
    return EvaluationSet(name, *(f"{folder / split}.json?images={folder / 'images'}" for split in ("train", "test")))
