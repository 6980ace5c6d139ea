"""Resizing against Pillow, to the last bit."""

import numpy as np
import pytest
from PIL import Image

from curation.resizing import resize

Filter = Image.Resampling


def by_pillow(rgb: np.ndarray, size: tuple[int, int], box: tuple[int, int, int, int], resampling: Filter) -> np.ndarray:
    """Two calls, so that every version of Pillow goes horizontally first."""
    image = Image.fromarray(rgb).resize((size[0], rgb.shape[0]), resampling).resize(size, resampling)
    return np.asarray(image.crop(box)).transpose(2, 0, 1)


@pytest.mark.parametrize("resampling", [Filter.BILINEAR, Filter.BICUBIC])
def test_resize__pillows_pixels_at_random_sizes(resampling: Filter) -> None:
    rng = np.random.default_rng(0)
    for number in range(150):
        high, wide, to_wide, to_high = (int(side) for side in rng.integers(1, 160, 4))
        to_wide, to_high = (wide if number % 5 == 0 else to_wide), (high if number % 7 == 0 else to_high)
        rgb = rng.integers(0, 256, (high, wide, 3), dtype=np.uint8)
        rgb = rgb // 128 * 255 if number % 3 == 0 else rgb  # black and white: the cubic filter overshoots
        left, right = sorted(rng.choice(to_wide + 1, 2, replace=False).tolist())
        top, bottom = sorted(rng.choice(to_high + 1, 2, replace=False).tolist())
        box, size = (left, top, right, bottom), (to_wide, to_high)
        expected = by_pillow(rgb, size, box, resampling)
        assert np.array_equal(resize(rgb, size, box, resampling), expected), (rgb.shape, size, box)


def test_resize__takes_views_and_leaves_them_alone() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    turned, before = rgb[::-1, ::2], rgb.copy()
    found = resize(turned, (20, 30), (0, 0, 20, 30), Filter.BILINEAR)
    assert np.array_equal(found, by_pillow(turned, (20, 30), (0, 0, 20, 30), Filter.BILINEAR))
    assert found.flags.c_contiguous and found.shape == (3, 30, 20) and np.array_equal(rgb, before)
