import numpy as np
import pytest

from curation.text import Fill, RapidOCRDetector, blur_regions, fill_regions, remove_words, text_area
from tests.curation.text.pictures import gradient, write


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


def test_fill_regions__takes_the_colour_around_a_word_and_no_other_words() -> None:
    image = np.full((80, 160, 3), 40, np.uint8)
    image[:, 80:] = 200
    words = [box(20, 30, 59, 49), box(20, 52, 59, 60), box(100, 30, 139, 49)]
    for left, top, right, bottom in ((20, 30, 60, 50), (20, 52, 60, 61), (100, 30, 140, 50)):
        image[top:bottom, left:right] = 255
    filled = fill_regions(image, words)
    assert (filled[28:63, 20:60] == 40).all() and (filled[30:50, 100:140] == 200).all()
    far = np.ones((80, 160), bool)
    far[30 - 7 : 61 + 7, 20 - 7 : 140 + 7] = False
    np.testing.assert_array_equal(filled[far], image[far])


def test_fill_regions__an_image_that_is_all_word() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    filled = fill_regions(image, [box(0, 0, 29, 19)])
    assert (filled == np.rint(image.reshape(-1, 3).mean(axis=0))).all()


@pytest.mark.parametrize("fill", ["blur", "mean"])
def test_remove_words__leaves_nothing_to_detect(fill: Fill) -> None:
    pytest.importorskip("rapidocr")
    detector = RapidOCRDetector()
    image, _ = write(gradient(96, 128), "apple pie", (8, 30), 20)
    polygons = detector.detect(image)
    assert polygons and detector.detect(remove_words(image, polygons, fill)) == []
