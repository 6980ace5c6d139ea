"""Exports for MMDetection: as recorded from it, and refused where a name is wrong."""

from pathlib import Path

import pytest

from pas_train.exporting import to_mmdet
from pas_train.exporting.export import export
from tests.pas_train.exporting.openmmlab_cases import CASES, HELD, assert_as_recorded
from tests.pas_train.exporting.small_sources import vit


@pytest.mark.parametrize("case", HELD["mmdet"])
def test_(case: str, tmp_path: Path) -> None:
    assert_as_recorded(case, "mmdet", tmp_path)


@pytest.mark.parametrize("case", HELD["mmdet"])
def test_mmdet__is_verified_before_it_is_announced(case: str, tmp_path: Path) -> None:
    verified = export(CASES[case](), "mmdet", tmp_path / "out")
    assert "MMDetection" in verified.by and verified.difference <= 1e-5 * verified.scale and verified.scale > 0.01


def test_mmdet__a_wrong_name_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = "layer1.1.conv1.", "layer1.1.conv2."
    monkeypatch.setattr(to_mmdet, "PARTS", {one: other, other: one})
    with pytest.raises(ValueError, match="--to mmdet: .*has other values in 2 tensors") as told:
        export(CASES["resnet18"](), "mmdet", tmp_path / "out")
    assert "layer1.1.conv1.weight, layer1.1.conv2.weight" in str(told.value)
    assert list(tmp_path.iterdir()) == []


def test_mmdet__refuses_transformers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no plain vision transformer: take --to detectron2"):
        export(vit(), "mmdet", tmp_path / "out")


def test_mmdet__files_are_those_of_a_training(tmp_path: Path) -> None:
    export(CASES["resnet18"](), "mmdet", tmp_path / "out")
    own = {"backbone.pth", "backbone.py", "cascade_rcnn_oktoberfest.py"}
    assert own < {path.name for path in (tmp_path / "out").iterdir()}
