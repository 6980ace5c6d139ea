"""Exports for MMPretrain: as recorded from it, and refused where a name is wrong."""

from pathlib import Path
from typing import Any

import pytest

from pas_train.exporting import to_mmpretrain
from pas_train.exporting.export import export
from tests.pas_train.exporting.openmmlab_cases import CASES, HELD, assert_as_recorded
from tests.pas_train.exporting.small_sources import vit


@pytest.mark.parametrize("case", HELD["mmpretrain"])
def test_(case: str, tmp_path: Path) -> None:
    assert_as_recorded(case, "mmpretrain", tmp_path)


@pytest.mark.parametrize("case", HELD["mmpretrain"])
def test_mmpretrain__is_verified_before_it_is_announced(case: str, tmp_path: Path) -> None:
    verified = export(CASES[case](), "mmpretrain", tmp_path / "out")
    assert "MMPretrain" in verified.by and verified.difference <= 1e-5 * verified.scale and verified.scale > 0.01


@pytest.mark.parametrize(
    ("swapped", "said"),
    [
        ({"norm1.": "ln2.", "norm2.": "ln1."}, "has other values in 16 tensors (blocks.0.norm1.weight"),
        ({"cls_token": "class_token"}, "lacks 1 tensors (cls_token); it has besides 1 tensors (class_token)"),
    ],
)
def test_mmpretrain__a_wrong_name_leaves_nothing(
    swapped: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_mmpretrain, "PARTS", {**to_mmpretrain.PARTS, **swapped})
    with pytest.raises(ValueError, match="--to mmpretrain: the export is not what was to be exported") as told:
        export(vit(depth=4), "mmpretrain", tmp_path / "out")
    assert said in str(told.value)
    assert list(tmp_path.iterdir()) == []


def test_mmpretrain__colours_are_of_bytes(tmp_path: Path) -> None:
    export(vit(), "mmpretrain", tmp_path / "out")
    config: dict[str, Any] = {}
    exec((tmp_path / "out" / "backbone.py").read_text(), config)
    assert config["preprocessor"] == {"mean": [127.5, 102.0, 76.5], "std": [51.0, 63.75, 76.5], "to_rgb": True}
    assert config["backbone"]["init_cfg"]["prefix"] == "backbone."


def test_mmpretrain__takes_what_mmseg_refuses(tmp_path: Path) -> None:
    verified = export(vit(qkv_bias=False, mlp_ratio=2.5), "mmpretrain", tmp_path / "out")
    assert verified.scale > 0.01
