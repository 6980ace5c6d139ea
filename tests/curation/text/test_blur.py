import numpy as np
import pytest

from curation.text import blur_regions, text_area
from tests.curation.text.pictures import gradient


def box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.int32)


def test_blur_regions__far_pixels_are_unchanged() -> None:
    image = np.random.default_rng(0).integers(0, 256, (80, 120, 3), np.uint8)
    before = image.copy()
    blurred = blur_regions(image, [box(40, 30, 79, 49)])
    np.testing.assert_array_equal(image, before)
    far = np.ones((80, 120), bool)
    far[30 - 7 : 50 + 7, 40 - 7 : 80 + 7] = False  # 0.1 + 0.2 of the height of 20
    np.testing.assert_array_equal(blurred[far], image[far])
    assert blurred[30:50, 40:80].std() < 0.3 * image[30:50, 40:80].std()


def test_blur_regions__stronger_blurs_more_and_floor_holds() -> None:
    image = np.zeros((60, 60, 3), np.uint8)
    image[:, ::2] = 255
    spread = [blur_regions(image, [box(10, 20, 49, 39)], strength)[25:35, 20:40].std() for strength in (0.01, 1.0)]
    assert spread[1] <= spread[0] < 10  # the floor alone already mixes one-pixel stripes


def test_blur_regions__large_sigma_close_to_the_direct_blur() -> None:
    import cv2

    image = cv2.resize(np.random.default_rng(1).integers(0, 256, (12, 16, 3), np.uint8), (400, 300))
    whole = box(0, 0, 399, 299)
    direct = cv2.GaussianBlur(image, (0, 0), 30)
    assert np.abs(blur_regions(image, [whole], 0.1).astype(int) - direct).mean() < 2


def test_blur_regions__no_polygons_and_corner_polygons() -> None:
    image = gradient(40, 50)
    np.testing.assert_array_equal(blur_regions(image, []), image)
    corner = blur_regions(image, [box(45, 35, 49, 39), box(0, 0, 3, 1), np.array([[0, 0], [0, 0], [0, 0]])])
    assert corner.shape == image.shape and corner.dtype == np.uint8


def test_text_area__union_of_polygons() -> None:
    assert text_area([], 10, 10) == 0
    assert text_area([box(0, 0, 4, 9)], 10, 10) == pytest.approx(0.5)
    assert text_area([box(0, 0, 4, 9), box(2, 0, 4, 9)], 10, 10) == pytest.approx(0.5)
    assert text_area([box(0, 0, 9, 9)], 10, 10) == 1
