import dataclasses
import pickle

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from curation.text import RapidOCRDetector, blur_regions, text_area


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


@pytest.fixture(scope="module")
def detector() -> RapidOCRDetector:
    pytest.importorskip("rapidocr")
    return RapidOCRDetector()


@pytest.mark.parametrize(
    ("side", "font_px"), [(48, 10), (48, 12), (64, 9), (64, 10), (64, 12), (96, 10), (160, 12), (200, 24)]
)
def test_detect__finds_words_on_small_images(detector: RapidOCRDetector, side: int, font_px: int) -> None:
    image, (left, top, right, bottom) = write(gradient(side, side), "pizza", (6, side // 3), font_px)
    polygons = detector.detect(image)
    assert len(polygons) == 1
    inside = np.zeros((side, side), bool)
    inside[top:bottom, left:right] = True
    assert polygons[0].dtype == np.int32 and polygons[0].shape == (4, 2)
    (x0, y0), (x1, y1) = polygons[0].min(axis=0), polygons[0].max(axis=0)
    assert inside[y0 : y1 + 1, x0 : x1 + 1].sum() > 0.75 * inside.sum()
    assert x0 >= 0 and y0 >= 0 and x1 < side and y1 < side


@pytest.mark.parametrize("side", [48, 64, 160])
def test_detect__nothing_on_plain_images_and_single_digits(detector: RapidOCRDetector, side: int) -> None:
    assert detector.detect(gradient(side, side)) == []
    image, _ = write(gradient(side, side), "8", (side // 4, side // 8), side // 2)
    assert detector.detect(image) == []


def test_detect__keeps_the_shape_of_wide_and_large_images(detector: RapidOCRDetector) -> None:
    image, (left, top, right, bottom) = write(gradient(400, 1200), "fresh bread", (500, 150), 60)
    polygons = detector.detect(image)
    assert len(polygons) >= 1
    points = np.concatenate(polygons)
    assert abs(points[:, 0].min() - left) < 25 and abs(points[:, 0].max() - right) < 25
    assert abs(points[:, 1].min() - top) < 25 and abs(points[:, 1].max() - bottom) < 25


@pytest.mark.parametrize("font_px", [10, 24])
def test_blur_regions__leaves_nothing_to_detect(detector: RapidOCRDetector, font_px: int) -> None:
    image, _ = write(gradient(96, 128), "apple pie", (8, 30), font_px)
    polygons = detector.detect(image)
    assert polygons
    assert RapidOCRDetector(threshold=0.5).detect(blur_regions(image, polygons)) == []


def test_detector__travels_to_workers(detector: RapidOCRDetector) -> None:
    image, _ = write(gradient(64, 64), "pizza", (4, 20), 12)
    before = detector.detect(image)
    again = pickle.loads(pickle.dumps(detector))
    assert again == detector
    np.testing.assert_array_equal(again.detect(image)[0], before[0])


def test_identity__names_version_settings_and_checksum(detector: RapidOCRDetector) -> None:
    identity = detector.identity
    assert identity["name"].startswith("rapidocr ") and len(identity["sha256"]) == 64
    assert identity["settings"] == dataclasses.asdict(detector)
    assert identity["version"]


def test_detector__says_how_to_install_or_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'pas-train\[text\]'.*`curation.text: null`"):
        _ = RapidOCRDetector().identity


@pytest.mark.parametrize(
    ("setting", "value"),
    [("side_px", 10), ("threshold", 1.0), ("upscale", 0.5), ("min_aspect", -1.0), ("max_share", 0.0)],
)
def test_detector__refuses_wrong_settings(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"curation.text.detector.{setting}.*{value}"):
        RapidOCRDetector(**{setting: value})  # type: ignore[arg-type]


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
