"""Backbones of every kind of checkpoint, with what their files tell of them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pas_train.exporting.architectures import infer, native_size, skeleton
from pas_train.exporting.export import export
from pas_train.exporting.reading import read_source
from tests.pas_train.exporting.small_sources import resnet
from tests.pas_train.published import IMAGES, RESNET, features, method, official, own, shaken


def test_training__its_own_settings_make_the_backbone(tmp_path: Path) -> None:
    model = method(mean=[0.1, 0.2, 0.3])
    shaken(model)
    source = read_source(str(own(tmp_path / "a.ckpt", model)))
    assert (source.architecture, source.image_size, source.name) == ("test_vit", 64, "a")
    assert source.options == {"depth": 2, "img_size": 64} and list(source.mean) == [0.1, 0.2, 0.3]
    assert torch.equal(features(source.backbone), features(model.backbone))
    assert source.metadata["training"]["steps"] == 3 and len(source.metadata["source"]["sha256"]) == 64
    assert not source.backbone.training and not any(one.requires_grad for one in source.backbone.parameters())


def test_training__another_image_size_interpolates_the_positions(tmp_path: Path) -> None:
    from timm.layers import resample_abs_pos_embed

    model = method()
    shaken(model)
    source = read_source(str(own(tmp_path / "a.ckpt", model)), image_size=96)
    positions: Any = source.backbone.pos_embed
    assert source.metadata["source"]["image_size"] == 64
    assert source.image_size == 96 and source.options["img_size"] == 96 and positions.shape == (1, 37, 64)
    before: Any = model.backbone.pos_embed
    assert torch.equal(positions, resample_abs_pos_embed(before, [6, 6], [4, 4]))
    assert "interpolated from 4 x 4 to 6 x 6" in source.metadata["source"]["weights"]
    with pytest.raises(ValueError, match=r"--image_size 72: .* patches of 16 px.*; take 64 or 80, or .* with 64"):
        read_source(str(tmp_path / "a.ckpt"), image_size=72)


def test_training__small_images_keep_their_stem(tmp_path: Path) -> None:
    model = method(**RESNET, small_images=True, image_size=32)
    source = read_source(str(own(tmp_path / "a.ckpt", model)))
    assert source.small_images and torch.equal(features(source.backbone), features(model.backbone))


def test_training__another_backbone_is_refused(tmp_path: Path) -> None:
    path = own(tmp_path / "a.ckpt", method())
    with pytest.raises(ValueError, match=r"--backbone resnet18: .*a\.ckpt is a test_vit; leave --backbone out"):
        read_source(str(path), "resnet18")


def test_official_moco__its_heads_and_its_licence(tmp_path: Path) -> None:
    path, _ = official(tmp_path)  # of a width that no published one has
    with pytest.raises(ValueError, match=r"official MoCo v3\) is no architecture that .* tell \(.*\): .*--backbone"):
        read_source(str(path))
    encoder = skeleton("vit_small_patch16_224", {"num_heads": 12, "img_size": 32}).to_empty(device="cpu")
    state = {f"module.base_encoder.{name}": torch.zeros_like(value) for name, value in encoder.state_dict().items()}
    torch.save({"state_dict": {**state, "module.base_encoder.head.0.weight": torch.zeros(4, 384)}}, path)
    source = read_source(str(path))
    assert source.architecture == "vit_small_patch16_224" and source.image_size == 32
    assert source.options == {"num_heads": 12, "img_size": 32}
    assert source.metadata["source"]["license"] == "cc-by-nc-4.0" and "training" not in source.metadata


def test_torchvision__by_names_and_shapes(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    model = shaken(resnet18())
    torch.save(model.state_dict(), tmp_path / "resnet18-f37072fd.pth")
    source = read_source(str(tmp_path / "resnet18-f37072fd.pth"))
    model.fc = torch.nn.Identity()  # type: ignore[assignment]
    assert source.architecture == "resnet18" and source.metadata["source"]["license"] == "bsd-3-clause"
    assert torch.allclose(features(source.backbone), features(model), rtol=1e-5)
    assert "left out fc.weight, fc.bias" in source.metadata["source"]["weights"]
    assert source.image_size == 224 and source.metadata["source"]["image_size"] is None  # no tensor tells it


@pytest.mark.parametrize("name", ["timm", "plain"])
def test_own_exports__are_read_again(tmp_path: Path, name: str) -> None:
    source = resnet()
    export(source, name, tmp_path / "out")
    again = read_source(str(tmp_path / "out" / ("" if name == "timm" else "backbone.pth")))
    assert again.architecture == "resnet18" and dict(again.options) == {"layers": [1, 1, 1, 1]}
    assert again.image_size == 64 and tuple(again.mean) == source.mean
    assert torch.equal(features(again.backbone, IMAGES), features(source.backbone, IMAGES))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"state": {}, "param_groups": []}, "it holds the state of an optimiser alone"),
        ({"optimizer_states": [{}], "global_step": 3}, "it holds the state of an optimiser alone"),
        (
            {"hyper_parameters": {"prototypes": 8, "hard_from": 1, "backbone": "vit", "weights": "timm"}},
            "it is a training of ProtoSim, whose transformer is not trained: export timm of vit",
        ),
        (
            {"state_dict": {"module.prompt_no": torch.zeros(2), "module.x": torch.zeros(1)}},
            "it is CLIPN's, a text tower",
        ),
        ({"projector.0.weight": torch.zeros(2, 2)}, "it has no backbone, but projector.0.weight"),
        ({"epoch": 3}, "it holds no tensors by name, but epoch"),
        ({"layer.weight": torch.zeros(2)}, "no architecture that its 1 tensors tell (layer.weight)"),
    ],
)
def test_wrong_kind__is_told(tmp_path: Path, content: dict[str, Any], said: str) -> None:
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="--ckpt_path: ") as error:
        read_source(str(tmp_path / "a.ckpt"))
    assert said in str(error.value)


def test_wrong_values__are_told(tmp_path: Path) -> None:
    model = method()
    model.backbone.norm.bias.data[0] = float("nan")  # type: ignore[union-attr, operator]
    with pytest.raises(ValueError, match=r"--ckpt_path: .*: 1 tensors hold values that are no numbers \(norm.bias\)"):
        read_source(str(own(tmp_path / "a.ckpt", model)))


def test_wrong_names__say_what_is_close(tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="--backbone: timm has no model 'resnet81'; close matches: resnet"):
        read_source(str(tmp_path / "a.pth"), "resnet81")
    with pytest.raises(ValueError, match=r"does not fit --backbone test_vit: .*; give .* or name theirs with --back"):
        read_source(str(tmp_path / "a.pth"), "test_vit")
    with pytest.raises(ValueError, match="--ckpt_path: timm has no model 'resnet81'"):
        read_source("timm:resnet81")
    with pytest.raises(FileNotFoundError, match=r"--ckpt_path: gone\.ckpt does not exist"):
        read_source("gone.ckpt")


@pytest.mark.parametrize("name", ["resnet50", "wide_resnet50_2", "resnet10t", "vit_base_patch16_224"])
def test_infer__by_names_and_shapes(name: str) -> None:
    state = skeleton(name).state_dict()
    assert infer(state) == name
    assert infer({key: value for key, value in list(state.items())[1:]}) is None


def test_native_size__by_the_positions() -> None:
    state = skeleton("vit_tiny_patch16_224", {"img_size": 96}).state_dict()
    assert native_size(state, "vit_tiny_patch16_224", {}) == 96
