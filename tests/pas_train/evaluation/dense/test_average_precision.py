import sys

import numpy as np
import pytest

from pas_train.evaluation.dense.average_precision import coco_map, require_pycocotools


def boxes(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(len(rows), -1)


def test_coco_map__is_that_counted_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    # Two boxes of one class. By falling score: the first exactly, a box of nothing, the second with IoU 0.62.
    known = [boxes((10, 10, 60, 60, 0)), boxes((0, 0, 100, 50, 0))]
    found = [boxes((10, 10, 60, 60, 0, 0.9), (70, 70, 90, 90, 0, 0.8)), boxes((0, 0, 62, 50, 0, 0.7))]
    # COCO reads the precision at recalls 0.00, 0.01 ... 1.00. At IoU 0.50, 0.55 and 0.60 it is 1 up to recall 0.5, of
    # which there are 51, and 2/3 at the 50 above; at the seven others the second box is missed.
    low, high = (51 + 50 * 2 / 3) / 101, 51 / 101
    assert coco_map(known, found, ["bread"]) == pytest.approx(
        {"map": (3 * low + 7 * high) / 10, "map50": low, "map75": high}, abs=1e-9
    )
    assert capsys.readouterr().out == ""


def test_coco_map__is_the_mean_of_the_classes_that_have_boxes() -> None:
    known = [boxes((0, 0, 40, 40, 0), (50, 50, 90, 90, 2)), np.zeros((0, 5), np.float32)]
    found = [boxes((0, 0, 40, 40, 0, 0.5), (50, 50, 90, 90, 1, 0.9)), boxes((0, 0, 9, 9, 1, 0.9))]
    assert coco_map(known, found, ["a", "b", "c"]) == pytest.approx({"map": 0.5, "map50": 0.5, "map75": 0.5})


def test_coco_map__a_box_found_twice_counts_once() -> None:
    known = [boxes((0, 0, 40, 40, 0), (50, 50, 90, 90, 0))]
    twice = [boxes((0, 0, 40, 40, 0, 0.9), (0, 0, 40, 40, 0, 0.8), (50, 50, 90, 90, 0, 0.7))]
    assert coco_map(known, twice, ["a"])["map"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_coco_map__what_is_found_in_a_crowd_is_neither_right_nor_wrong() -> None:
    known, crowd = [boxes((0, 0, 40, 40, 0))], [boxes((50, 0, 200, 200, 0))]
    found = [boxes((60, 10, 90, 40, 0, 0.9), (100, 10, 130, 50, 0, 0.8), (0, 0, 40, 40, 0, 0.7))]
    assert coco_map(known, found, ["a"])["map"] == pytest.approx(1 / 3)
    assert coco_map(known, found, ["a"], crowd)["map"] == pytest.approx(1)


def test_coco_map__nothing_found_is_zero() -> None:
    known, nothing = [boxes((0, 0, 40, 40, 0))], [np.zeros((0, 6), np.float32)]
    assert coco_map(known, nothing, ["a"]) == {"map": 0, "map50": 0, "map75": 0}
    with pytest.raises(ValueError, match="none of 1 test images has a box"):
        coco_map([np.zeros((0, 5), np.float32)], nothing, ["a"])


def test_require_pycocotools__says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    require_pycocotools()
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    with pytest.raises(ValueError, match=r"evaluation\.detection needs pycocotools.*pas-train\[dense\]"):
        require_pycocotools()
