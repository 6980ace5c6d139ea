"""Pictures with and without words."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont


def gradient(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([80 + x * 60 // width, 90 + y * 60 // height, 70 + (x + y) * 40 // (height + width)], 2).astype(
        np.uint8
    )


def write(
    rgb: np.ndarray, word: str, at: tuple[int, int], font_px: int
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """The image with a word, and its box (left, top, right, bottom)."""
    image = Image.fromarray(rgb)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=font_px)
    draw.text(at, word, fill=(255, 255, 255), font=font)
    return np.array(image), tuple(int(value) for value in draw.textbbox(at, word, font=font))
