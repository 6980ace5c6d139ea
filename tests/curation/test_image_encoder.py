import numpy as np
from PIL import Image

from curation.image_encoder import Prepare


def test_prepare__square_skews_and_crop_does_not() -> None:
    # Left half red, right half blue, twice as wide as high: a centre crop sees half of each, and so does the square.
    rgb = np.zeros((20, 40, 3), np.uint8)
    rgb[:, :20, 0] = rgb[:, 20:, 2] = 255
    rgb[:, :5] = rgb[:, -5:] = 255  # white ends, which only the square shows
    square, cropped = (Prepare(10, square, Image.Resampling.NEAREST)(rgb) for square in (True, False))
    assert square.shape == cropped.shape == (3, 10, 10) and square.flags.c_contiguous
    assert square[:, 0, 0].tolist() == [255, 255, 255] and cropped[:, 0, 0].tolist() == [255, 0, 0]
    assert cropped[:, 0, 4].tolist() == [255, 0, 0] and cropped[:, 0, 5].tolist() == [0, 0, 255]


def test_prepare__a_crop_beyond_the_picture_has_black_margins() -> None:
    for resized in (9, 7):  # the middle of 9 px, rounded, begins at 0 and ends outside
        cropped = Prepare(10, True, Image.Resampling.BICUBIC, resized)(np.full((20, 20, 3), 255, np.uint8))
        assert cropped.shape == (3, 10, 10) and (cropped[0] == 255).sum() == resized**2 and not cropped[:, -1].any()
