"""detectron2's names, recorded from its source, and what its own models computed of exported weights."""

import ast
import hashlib
import json
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from torch import Tensor, nn

from pas_train.exporting import to_detectron2
from pas_train.exporting.detectron2_configs import yaml_settings
from pas_train.exporting.registry import target
from pas_train.exporting.source import Source
from pas_train.exporting.to_detectron2 import Detectron2, renamed
from pas_train.exporting.verifying import verify

FIXTURES = Path(__file__).parents[2] / "fixtures"
RECORDED = json.loads((FIXTURES / "detectron2_names.json").read_text())
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet18-1111": ("resnet18", {"layers": [1, 1, 1, 1]}),
    "resnet50-1111": ("resnet50", {"layers": [1, 1, 1, 1]}),
    "test_vit-2": ("test_vit", {"depth": 2, "img_size": 64}),
    "test_vit-2-patches": ("test_vit", {"depth": 2, "img_size": 64, "class_token": False, "global_pool": "avg"}),
}


def filled(net: nn.Module) -> nn.Module:
    """With values that depend on names and places alone."""
    with torch.no_grad():
        for number, (name, value) in enumerate(net.state_dict().items()):
            if not value.is_floating_point():
                continue
            wave = torch.sin(torch.arange(value.numel(), dtype=torch.float64) * 0.7 + number).view(value.shape)
            if value.ndim > 1:
                value.copy_(wave * (2 / value[0].numel()) ** 0.5)
            else:
                value.copy_(0.2 * wave + (1 if "var" in name or "norm" in name or "bn" in name else 0))
    return net.eval()


def small(key: str) -> Source:
    name, options = SMALL[key]
    net = filled(timm.create_model(name, num_classes=0, **options))
    return Source(net, name, 64, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), options, metadata={"method": "MoCoV3"})


def empty(name: str, **options: Any) -> Source:
    with torch.device("meta"):
        net = timm.create_model(name, num_classes=0, **options)
    return Source(net, name, 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), options)


def images() -> Tensor:
    return torch.sin(torch.arange(3 * 64 * 64, dtype=torch.float64) * 0.37).view(1, 3, 64, 64).float() * 2


@pytest.mark.parametrize("key", list(SMALL))
def test_recorded__names_and_shapes_are_those_of_detectron2(key: str) -> None:
    theirs = {name: tuple(shape) for name, shape in RECORDED["whole"][key].items()}
    assert Detectron2().recorded(small(key)) == theirs


@pytest.mark.parametrize("name", list(RECORDED["digests"]))
def test_recorded__holds_for_large_ones_too(name: str) -> None:
    listed = sorted((name, list(shape)) for name, shape in Detectron2().recorded(empty(name)).items())
    digest = hashlib.sha256(json.dumps(listed).encode()).hexdigest()
    assert {"tensors": len(listed), "sha256": digest} == RECORDED["digests"][name]


@pytest.mark.parametrize("key", list(SMALL))
def test_outputs__are_what_detectron2_computed_of_the_export(key: str) -> None:
    told = small(key).outputs(images())
    recorded = {
        name.split("/")[1]: torch.from_numpy(value)
        for name, value in np.load(FIXTURES / "detectron2_features.npz").items()
        if name.startswith(f"{key}/")
    }
    assert set(recorded) == ({"patch_map"} if "vit" in key else {"map", "embedding"})
    for name, value in recorded.items():
        assert value.std() > 0.01 and torch.allclose(told[name], value, atol=1e-4 * float(value.abs().max()))


@pytest.mark.parametrize("key", list(SMALL))
def test_write__is_verified_by_the_recorded_names(tmp_path: Path, key: str) -> None:
    source, to = small(key), target("detectron2")
    to.check(source)
    to.write(source, tmp_path)
    verified = verify(to, source, tmp_path)
    assert verified.difference <= to.tolerance * verified.scale
    assert verified.by.startswith("detectron2" if to.installed() else "the names recorded from detectron2")


@pytest.mark.parametrize(
    ("key", "one", "other"),
    [
        ("test_vit-2", "blocks.0.norm1.weight", "blocks.0.norm2.weight"),
        ("resnet18-1111", "res2.0.conv1.norm.bias", "res2.0.conv2.norm.bias"),
    ],
)
def test_write__a_swapped_name_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, one: str, other: str
) -> None:
    swap: dict[str | None, str] = {one: other, other: one}
    monkeypatch.setattr(to_detectron2, "renamed", lambda name: swap.get(renamed(name), renamed(name)))
    Detectron2().write(small(key), tmp_path)
    with pytest.raises(ValueError, match="has other values in 2 tensors|features differ"):
        verify(Detectron2(), small(key), tmp_path)


def test_write__a_lost_name_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_detectron2, "renamed", lambda name: None if "fc2.bias" in name else renamed(name))
    Detectron2().write(small("test_vit-2"), tmp_path)
    with pytest.raises(ValueError, match=r"mlp\.fc2\.bias"):
        verify(Detectron2(), small("test_vit-2"), tmp_path)


def test_write__pickle_names_nothing_of_one_numpy_alone_and_is_the_same_again(tmp_path: Path) -> None:
    files = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        Detectron2().write(small("test_vit-2"), folder)
        files.append((folder / "model.pkl").read_bytes())
    strings = {argument for _, argument, _ in pickletools.genops(files[0]) if isinstance(argument, str)}
    assert files[0] == files[1] and {"numpy", "ndarray", "matching_heuristics", "MoCoV3"} <= strings
    assert not any("multiarray" in text for text in strings)


def test_write__transformer_is_configured_in_its_numbers(tmp_path: Path) -> None:
    Detectron2().write(small("test_vit-2-patches"), tmp_path)
    tree = ast.parse((tmp_path / "backbone.py").read_text())
    assigned = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}  # type: ignore[attr-defined]
    call = assigned["backbone"]
    assert isinstance(call, ast.Call)
    numbers = {one.arg: one.value.value for one in call.keywords if isinstance(one.value, ast.Constant)}
    assert numbers == {
        "img_size": 64, "pretrain_img_size": 64, "patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 2,
        "mlp_ratio": 3.0, "qkv_bias": True, "pretrain_use_cls_token": False, "out_feature": "last_feat",
    }  # fmt: skip
    colours = assigned["colours"]
    assert isinstance(colours, ast.Call)
    told = {one.arg: ast.literal_eval(one.value) for one in colours.keywords}
    assert told["pixel_mean"] == [127.5, 102.0, 76.5] and told["input_format"] == "RGB"


@pytest.mark.parametrize(
    ("name", "resnet"),
    [
        ("resnet34", {"DEPTH": 34, "RES2_OUT_CHANNELS": 64}),
        ("resnet50", {"DEPTH": 50, "RES2_OUT_CHANNELS": 256, "NUM_GROUPS": 1, "WIDTH_PER_GROUP": 64}),
        ("resnext50_32x4d", {"DEPTH": 50, "RES2_OUT_CHANNELS": 256, "NUM_GROUPS": 32, "WIDTH_PER_GROUP": 4}),
    ],
)
def test_yaml__resnets_that_detectron2_builds_by_depth(name: str, resnet: dict[str, int]) -> None:
    settings = yaml_settings(empty(name))
    assert settings is not None and settings["INPUT"] == {"FORMAT": "RGB"}
    assert settings["MODEL"]["RESNETS"] == {**resnet, "STRIDE_IN_1X1": False}
    assert settings["MODEL"]["PIXEL_MEAN"] == [127.5, 127.5, 127.5]


def test_yaml__is_written(tmp_path: Path) -> None:
    source = Source(timm.create_model("resnet18", num_classes=0), "resnet18", 224, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    Detectron2().write(source, tmp_path)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == yaml_settings(source)


def test_yaml__none_for_others(tmp_path: Path) -> None:
    Detectron2().write(small("resnet18-1111"), tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["backbone.py", "model.pkl"]
    assert yaml_settings(empty("resnet26")) is None
    assert yaml_settings(empty("resnet18", channels=[32, 64, 128, 256])) is None


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"channels": [32, 64, 128, 256]}), ("wide_resnet50_2", {}), ("resnet26", {}),
        ("vit_tiny_patch16_224", {"no_embed_class": True}), ("vit_tiny_patch16_224", {"qkv_bias": False}),
        ("vit_tiny_patch16_224", {"embed_dim": 60, "mlp_ratio": 2.7}), ("deit_tiny_patch16_224", {}),
    ],
)  # fmt: skip
def test_check__takes_plain_ones(name: str, options: dict[str, Any]) -> None:
    Detectron2().check(empty(name, **options))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("resnet10t", {}, "stem of small convolutions"),
        ("resnet50d", {}, "average pooling in its shortcuts"),
        ("seresnet18", {}, "squeeze-and-excitation"),
        ("resnet18", {"output_stride": 16}, "dilated stages"),
        ("vit_tiny_patch16_224", {"reg_tokens": 4}, "4 register tokens"),
        ("vit_tiny_patch16_224", {"init_values": 1e-5}, "layer scale"),
        ("vit_tiny_patch16_224", {"pos_embed": "none"}, "no position embedding"),
        ("vit_tiny_patch16_224", {"img_size": (224, 192)}, "no squares"),
        ("deit_tiny_distilled_patch16_224", {}, "another design"),
        ("test_convnext", {}, "another design"),
    ],
)
def test_check__refuses_what_detectron2_has_no_place_for(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=rf"--to detectron2: {name} .*{said}.*--to plain, onnx or torchscript"):
        Detectron2().check(empty(name, **options))


def test_check__refuses_the_stem_for_small_images() -> None:
    source = small("resnet18-1111")
    source.backbone.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    source.backbone.maxpool = nn.Identity()
    with pytest.raises(ValueError, match="a stem of small convolutions"):
        Detectron2().check(source)


def test_outputs__patches_alone_are_a_transformer_without_its_class_token() -> None:
    with_token, without = small("test_vit-2"), small("test_vit-2-patches")
    state = {name: value for name, value in with_token.state.items() if name in without.state}
    state["pos_embed"] = state["pos_embed"][:, 1:]
    without.backbone.load_state_dict(state, strict=False)
    alone, told = without.outputs(images()), with_token.outputs(images())
    assert torch.allclose(told["patch_map"], alone["raw_map"], atol=1e-5)
    assert not torch.allclose(told["patch_map"], told["raw_map"], atol=1e-3)
