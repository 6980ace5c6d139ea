"""Photographs of ImageNet's kind for the benchmarks, cut from the two that scikit-learn brings."""

import io

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

WIDTH, HEIGHT = 500, 375
QUALITY = 97  # gives about 105 kB, which is the mean of ImageNet at this size


def photo(number: int, short_side: int | None = None) -> bytes:
    """A JPEG of 500 x 375 px, every fourth upright; or shrunk to a short side at quality 90, as shards are."""
    rng = np.random.default_rng(number)
    image = Image.fromarray(load_sample_images().images[number % 3 == 1])  # 640 x 427, of much and of less detail
    scale = rng.uniform(1.0, min(image.width / WIDTH, image.height / HEIGHT))
    wide, tall = WIDTH * scale, HEIGHT * scale
    left, top = rng.uniform(0, image.width - wide), rng.uniform(0, image.height - tall)
    picture = image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS, box=(left, top, left + wide, top + tall))
    if number % 4 == 0:
        picture = picture.transpose(Image.Transpose.ROTATE_90)
    if short_side is not None:
        share = short_side / HEIGHT
        picture = picture.resize(
            (round(picture.width * share), round(picture.height * share)), Image.Resampling.LANCZOS
        )
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY if short_side is None else 90)
    return buffer.getvalue()


def large_photo(number: int) -> bytes:
    """A JPEG of 2000 x 1500 px, as phones of some years ago made them: 16 of the others side by side."""
    whole = Image.new("RGB", (4 * WIDTH, 4 * HEIGHT))
    for place in range(16):
        tile = Image.open(io.BytesIO(photo(4 * (16 * number + place) + 1)))
        whole.paste(tile, (place % 4 * WIDTH, place // 4 * HEIGHT))
    buffer = io.BytesIO()
    whole.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
