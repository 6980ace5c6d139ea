import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from curation.text import FAST
from curation.text.fast import to_image
from tests.curation.text.red_finder import save_red_finder

SIZES = [(128, 128), (60, 128), (200, 100), (31, 77), (512, 300)]


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> FAST:
    return FAST(str(save_red_finder(tmp_path_factory.mktemp("weights") / "red.pth")), square_px=128, min_area=20)


def image(height: int, width: int) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Grey with a red box (left, top, right, bottom; the last two beyond it)."""
    rgb = np.full((height, width, 3), 90, np.uint8)
    left, top, right, bottom = width // 5, height // 4, width * 4 // 5, height * 3 // 5
    rgb[top:bottom, left:right] = (255, 0, 0)
    return rgb, (left, top, right, bottom)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_detect__polygons_lie_where_the_text_is(detector: FAST, height: int, width: int) -> None:
    rgb, (left, top, right, bottom) = image(height, width)
    (polygon,) = detector.detect(rgb)
    assert polygon.dtype == np.int32
    cell = 4 * max(height, width) / 128  # a pixel of the network's output; words grow by up to one by the pooling
    (x0, y0), (x1, y1) = polygon.min(axis=0), polygon.max(axis=0)
    np.testing.assert_allclose((x0, y0, x1 + 1, y1 + 1), (left, top, right, bottom), atol=2 * cell + 1)
    assert x0 >= 0 and y0 >= 0 and x1 < width and y1 < height


def test_detect__nothing_without_text_and_all_of_an_image_of_text(detector: FAST) -> None:
    assert detector.detect(np.full((50, 80, 3), 200, np.uint8)) == []
    (polygon,) = detector.detect(np.full((50, 80, 3), (255, 0, 0), np.uint8))
    assert (polygon.min(axis=0) <= 1).all() and (polygon.max(axis=0) >= (78, 48)).all()


def test_detect__thresholds_decide(detector: FAST) -> None:
    rgb, _ = image(100, 100)
    assert dataclasses.replace(detector, min_area=128 * 128 // 2).detect(rgb) == []
    assert dataclasses.replace(detector, min_score=0.99999).detect(rgb) == []
    assert len(dataclasses.replace(detector, min_score=0.99).detect(rgb)) == 1


def test_finder__a_batch_finds_what_single_images_do(detector: FAST) -> None:
    images = [image(*size)[0] for size in SIZES] + [np.zeros((40, 30, 3), np.uint8)]
    prepared = [pickle.loads(pickle.dumps(detector)).prepare(rgb) for rgb in images]  # as it travels to workers
    batch = {name: torch.from_numpy(np.stack([item[name] for item in prepared])) for name in prepared[0]}
    for rgb, polygons in zip(images, detector.finder()(batch), strict=True):
        single = detector.detect(rgb)
        assert len(single) == len(polygons)
        assert all(np.array_equal(*pair) for pair in zip(single, polygons, strict=True))


def test_prepare__pads_with_white_to_a_centred_square(detector: FAST) -> None:
    made = detector.prepare(np.zeros((64, 128, 3), np.uint8))
    assert made["square"].shape == (3, 128, 128) and made["square"].dtype == np.uint8
    assert made["size"].tolist() == [64, 128]
    assert (made["square"][:, :32] == 255).all() and (made["square"][:, 96:] == 255).all()
    assert (made["square"][:, 32:96] == 0).all()


def test_to_image__corners_of_the_image_in_the_square() -> None:
    # 300 x 200: scaled by 512 / 300, with 50 px of white above and below.
    corners = np.array([[0, 50 * 512 / 300], [512, 50 * 512 / 300], [512, 250 * 512 / 300], [0, 250 * 512 / 300]])
    assert to_image(corners, 200, 300, 512).tolist() == [[0, 0], [299, 0], [299, 199], [0, 199]]
    assert to_image(np.array([[256, 256]]), 200, 300, 512).tolist() == [[150, 100]]
    assert to_image(np.array([[0, 0], [512, 0], [512, 80], [0, 80]]), 200, 300, 512).shape == (0, 2)  # all in the white


def test_identity__names_the_checkpoint(detector: FAST) -> None:
    assert detector.identity["name"] == "FAST-tiny red.pth" and len(detector.identity["sha256"]) == 64
    assert dataclasses.replace(detector, stand_in=True).identity["stand_in"] is True


def test_path__missing_weights_say_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"^curation\.text\.detector\.model: .*download https://.*RapidOCR"):
        _ = FAST().identity
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    save_red_finder(tmp_path / "hub/checkpoints" / FAST().model)
    assert FAST().path.parent == tmp_path / "hub/checkpoints"


@pytest.mark.parametrize(
    ("setting", "value"), [("square_px", 500), ("square_px", 32), ("min_score", 1.0), ("min_area", -1)]
)
def test_fast__refuses_wrong_settings(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"curation.text.detector.{setting}.*{value}"):
        FAST(**{setting: value})  # type: ignore[arg-type]
