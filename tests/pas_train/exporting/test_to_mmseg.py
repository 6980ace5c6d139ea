"""Exports for MMSegmentation: as recorded from it, and refused where a name is wrong."""

from pathlib import Path
from typing import Any

import pytest

from pas_train.exporting import to_mmseg
from pas_train.exporting.export import export
from tests.pas_train.exporting.openmmlab_cases import CASES, HELD, assert_as_recorded
from tests.pas_train.exporting.small_sources import vit


@pytest.mark.parametrize("case", HELD["mmseg"])
def test_(case: str, tmp_path: Path) -> None:
    assert_as_recorded(case, "mmseg", tmp_path)


@pytest.mark.parametrize("case", HELD["mmseg"])
def test_mmseg__is_verified_before_it_is_announced(case: str, tmp_path: Path) -> None:
    verified = export(CASES[case](), "mmseg", tmp_path / "out")
    assert "MMSegmentation" in verified.by and verified.difference <= 1e-5 * verified.scale and verified.scale > 0.01


@pytest.mark.parametrize(
    ("swapped", "said"),
    [
        ({"norm1.": "ln2.", "norm2.": "ln1."}, "has other values in 16 tensors (blocks.0.norm1.weight"),
        ({"cls_token": "class_token"}, "lacks 1 tensors (cls_token); it has besides 1 tensors (class_token)"),
    ],
)
def test_mmseg__a_wrong_name_leaves_nothing(
    swapped: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_mmseg, "PARTS", {**to_mmseg.PARTS, **swapped})
    with pytest.raises(ValueError, match="--to mmseg: the export is not what was to be exported") as told:
        export(vit(depth=4), "mmseg", tmp_path / "out")
    assert said in str(told.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mlp_ratio": 2.5}, "160 wide, no multiple of its width 64"),
        ({"depth": 3}, "tokens of 4 blocks, the backbone has 3"),
        ({"qkv_bias": False}, "tensors of other names or shapes (blocks.0.attn.proj.bias"),
    ],
)
def test_mmseg__refuses_what_it_cannot_build(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--to mmseg: .*take --to") as told:
        export(vit(**{"depth": 4, **options}), "mmseg", tmp_path / "out")
    assert said in str(told.value)


def test_mmseg__colours_are_of_bytes(tmp_path: Path) -> None:
    export(vit(depth=4), "mmseg", tmp_path / "out")
    config: dict[str, Any] = {}
    exec((tmp_path / "out" / "backbone.py").read_text(), config)
    assert config["preprocessor"] == {"mean": [127.5, 102.0, 76.5], "std": [51.0, 63.75, 76.5], "bgr_to_rgb": True}
