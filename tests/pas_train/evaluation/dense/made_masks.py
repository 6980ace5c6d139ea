"""Photograph-like images on which discs and squares lie, with their masks."""

from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.dense import IGNORED, MaskedImages
from datamodules.labelled import ImageFiles

CLASSES = ["background", "disc", "square"]


def save_shapes(folder: Path, first: int, count: int) -> MaskedImages:
    """Images of 40 to 72 pixels a side; a disc and a square each, in stripes that no background has; rims are ignored.

    first: of the numbers that the images are drawn from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images, masks = [], []
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        height, width = rng.integers(40, 73, 2)
        pixels = np.asarray(Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize((width, height))).copy()
        mask = np.zeros((height, width), np.uint8)
        row, column = np.mgrid[:height, :width]
        for shape, left in (("disc", 0), ("square", width // 2)):
            size = rng.integers(8, 11)
            y, x = rng.integers(size, height - size), left + rng.integers(size, max(size + 1, width // 2 - size))
            away = np.hypot(row - y, column - x) if shape == "disc" else np.maximum(abs(row - y), abs(column - x))
            stripes = (row if shape == "disc" else column) // 2 % 2
            pixels[away < size] = (255 * stripes[..., None] * rng.uniform(0.8, 1, 3))[away < size]
            mask[away < size] = CLASSES.index(shape)
            mask[abs(away - size) < 0.5] = IGNORED
        images.append(folder / f"{number}.png")
        masks.append(folder / f"{number}.mask.png")
        Image.fromarray(pixels).save(images[-1])
        Image.fromarray(mask).save(masks[-1])
    return MaskedImages(ImageFiles(images), masks, CLASSES)
