"""Two small sets of pictures, one of which holds a pattern that the other lacks."""

from pathlib import Path

import numpy as np
from PIL import Image


def save_set(
    folder: Path, count: int, seed: int, planted: bool = False, side: int = 32, names: str = "", whole: bool = False
) -> Path:
    """Soft colours; with planted every other picture holds a checked square of half the side (whole: of all).

    names: of the class folders, one letter each, that the pictures take turns in.
    """
    rng = np.random.default_rng(seed)
    for number in range(count):
        cells = Image.fromarray(rng.integers(60, 200, (3, 3, 3)).astype(np.uint8))
        pixels = np.asarray(cells.resize((side, side), Image.Resampling.BICUBIC)).copy()
        if planted and number % 2 == 0:
            half = side if whole else side // 2
            top, left = rng.integers(0, side - half + 1, 2)
            checked = np.indices((half, half)).sum(axis=0) // max(1, side // 16) % 2
            pixels[top : top + half, left : left + half] = 255 * checked[..., None]
        inside = folder / names[number % len(names)] if names else folder
        inside.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(inside / f"{number:03d}.png")
    return folder
