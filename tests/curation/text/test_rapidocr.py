import dataclasses
import pickle

import numpy as np
import pytest
from PIL import Image, ImageDraw

from curation.text import RapidOCRDetector, blur_regions
from curation.text.rapidocr import is_repetition
from tests.curation.text.pictures import gradient, write


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


@pytest.mark.parametrize("shape", ["ring", "cross"])
def test_detect__a_row_of_one_shape_is_no_word(detector: RapidOCRDetector, shape: str) -> None:
    image = Image.new("RGB", (64, 64), (240, 220, 120))
    draw = ImageDraw.Draw(image)
    for x in range(6, 64, 15):
        for y in range(9, 64, 22):
            if shape == "ring":
                draw.ellipse((x - 5, y - 5, x + 5, y + 5), outline=(60, 20, 150), width=2)
            else:
                draw.line((x - 5, y, x + 5, y), fill=(60, 20, 150), width=3)
                draw.line((x, y - 5, x, y + 5), fill=(60, 20, 150), width=3)
    assert dataclasses.replace(detector, drop_repeats=False).detect(np.array(image))
    assert detector.detect(np.array(image)) == []


def test_detect__words_from_border_to_border_stay(detector: RapidOCRDetector) -> None:
    image, (left, _, right, _) = write(gradient(64, 64), "marble", (-1, 20), 21)
    assert left <= 0 and right >= 62
    assert len(detector.detect(image)) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0000", True), ("o0O 0", True), ("5000", True), ("+十十", True), ("good", False), ("10", False), ("", False),
     ("checked", False), ("++", False), ("www", True)],
)  # fmt: skip
def test_is_repetition__three_quarters_of_one_shape(text: str, expected: bool) -> None:
    assert is_repetition(text) is expected


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
