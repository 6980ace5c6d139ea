"""Shapes pasted on photographs, whose boxes are known."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images

from datamodules.dense import BoxedImages
from datamodules.labelled import ImageFiles

SHAPES = ("disc", "square", "triangle")
WIDTH, HEIGHT = 128, 96


def save_pasted(folder: Path, count: int, first: int = 0) -> BoxedImages:
    """Crops of two photographs, each with one or two shapes of any colour; the fourth of them has none."""
    folder.mkdir(parents=True)
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    names, boxes = [], []
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        left, top = rng.integers(0, 640 - 2 * WIDTH), rng.integers(0, 427 - 2 * HEIGHT)
        image = photographs[number % 2].resize((WIDTH, HEIGHT), box=(left, top, left + 2 * WIDTH, top + 2 * HEIGHT))
        boxes.append(np.zeros((0, 5), np.float32) if number == first + 3 else _paste(image, rng))
        names.append(f"{number}.png")
        image.save(folder / names[-1])
    return BoxedImages(ImageFiles(names, folder), boxes, list(SHAPES))


def _paste(image: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """float32 [K, 5] of shapes in the left and in the right half."""
    pen, boxes = ImageDraw.Draw(image), []
    for half in rng.permutation(2)[: rng.integers(1, 3)]:
        shape, side = rng.integers(len(SHAPES)), rng.integers(28, 56)
        x, y = half * WIDTH // 2 + rng.integers(0, WIDTH // 2 - side), rng.integers(0, HEIGHT - side)
        colour = tuple(rng.integers(0, 256, 3).tolist())
        if shape == 0:
            pen.ellipse((x, y, x + side - 1, y + side - 1), fill=colour)
        elif shape == 1:
            pen.rectangle((x, y, x + side - 1, y + side - 1), fill=colour)
        else:
            pen.polygon([(x, y + side - 1), (x + side - 1, y + side - 1), (x + side // 2, y)], fill=colour)
        boxes.append((x, y, x + side, y + side, shape))
    return np.array(boxes, np.float32)
