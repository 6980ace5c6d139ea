"""What the targets of OpenMMLab share: the backbones that fit, and the checkpoint."""

import ast
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from pas_train.exporting import loaders
from pas_train.exporting.openmmlab import Residual, describe, read_checkpoint, rename, write_checkpoint
from pas_train.exporting.openmmlab_configs import levels
from pas_train.exporting.source import Source
from tests.pas_train.exporting.small_sources import resnet, vit

LOADERS = Path(loaders.__path__[0])


def bare(name: str, **options: Any) -> Source:
    """Without values: shapes are looked at alone."""
    with torch.device("meta"):
        return Source(timm.create_model(name, num_classes=0, **options), name, 64, (0.5,) * 3, (0.2,) * 3)


@pytest.mark.parametrize(
    ("name", "depth"),
    [("resnet18", 18), ("resnet34", 34), ("resnet50", 50), ("resnet101", 101), ("resnext50_32x4d", 50)],
)
def test_describe__finds_the_depth_of_a_resnet(name: str, depth: int) -> None:
    shape = describe(bare(name), "mmdet")
    assert isinstance(shape, Residual) and shape.depth == depth


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: bare("resnet18", layers=[1, 1, 1, 1]), "1, 1, 1, 1 blocks of 2 layers"),
        (lambda: resnet(small_images=True), "the stem for small images"),
        (lambda: bare("resnet10t"), "a stem of small convolutions"),
        (lambda: bare("wide_resnet50_2"), "tensors of other names or shapes (layer1.0.conv1.weight"),
        (lambda: bare("resnext50_32x4d", channels=[32, 64, 128, 256]), "where a ResNeXt has 64"),
        (lambda: bare("test_vit", reg_tokens=4), "4 register tokens"),
        (lambda: bare("test_vit", init_values=0.1), "layer scale"),
        (lambda: bare("test_vit", class_token=False, global_pool="avg"), "no class token"),
        (lambda: bare("test_efficientnet"), "another design"),
    ],
)
def test_describe__refuses_what_has_no_place(made: Any, said: str) -> None:
    with pytest.raises(ValueError, match="--to mmseg: .*has no place for: take --to plain, ") as told:
        describe(made(), "mmseg")
    assert said in str(told.value)


def test_rename__parts_of_blocks_and_the_rest() -> None:
    parts = {"norm1.": "ln1.", "norm.": "ln1.", "attn.qkv.": "attn.attn.in_proj_"}
    names = ["blocks.11.norm1.weight", "norm.bias", "blocks.0.attn.qkv.bias", "cls_token"]
    expected = ["layers.11.ln1.weight", "ln1.bias", "layers.0.attn.attn.in_proj_bias", "cls_token"]
    assert [rename(name, parts) for name in names] == expected


def test_write_checkpoint__same_bytes_with_metadata_and_prefix(tmp_path: Path) -> None:
    made = vit()
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_checkpoint(made, tmp_path / name, {}, "backbone.")
        files.append((tmp_path / name / "backbone.pth").read_bytes())
    assert files[0] == files[1]
    content = torch.load(tmp_path / "one" / "backbone.pth", weights_only=True)
    assert content["meta"]["method"] == "MoCoV3" and set(content) == {"state_dict", "meta"}
    assert all(name.startswith("backbone.") for name in content["state_dict"])
    assert torch.equal(read_checkpoint(tmp_path / "one", "backbone.")["cls_token"], made.state["cls_token"])


def test_levels__are_spaced_evenly_and_end_with_the_last_block() -> None:
    assert [levels(depth) for depth in (4, 12, 24)] == [(0, 1, 2, 3), (2, 5, 8, 11), (5, 11, 17, 23)]


@pytest.mark.parametrize("name", ["mmpretrain", "mmseg", "mmdet"])
def test_loaders__are_of_an_old_python_and_import_nothing_of_ours(name: str) -> None:
    tree = ast.parse((LOADERS / f"{name}.py").read_text(), feature_version=(3, 8))
    found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    found |= {one.name for node in ast.walk(tree) if isinstance(node, ast.Import) for one in node.names}
    assert {(module or "").split(".")[0] for module in found} == {"pathlib", "torch", "mmengine", name}
