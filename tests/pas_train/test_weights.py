"""Each layout is written by the library that publishes it, and the features are compared before and after."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Dinov2Config, PretrainedConfig, ResNetConfig, ViTConfig, ViTMAEConfig
from transformers.utils import logging

from pas_train.backbones import sincos_position_embedding
from pas_train.methods import NNCLR
from tests.pas_train.methods.small_training import batches, train
from tests.pas_train.published import (
    IMAGES,
    RESNET,
    VIT,
    assert_same,
    features,
    in_hub_cache,
    method,
    official,
    own,
    save_transformers,
    shaken,
    started,
    tv_resnet,
)


@pytest.fixture(autouse=True)
def quiet() -> None:
    logging.disable_progress_bar()
    torch.manual_seed(0)


# Official MoCo v3.


@pytest.mark.parametrize("vit", [True, False])
def test_load_start__official_moco_v3_is_taken_whole(
    tmp_path: Path, vit: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path, encoder = official(tmp_path, vit)
    model = started(path, **({} if vit else RESNET))
    said = capsys.readouterr().out
    assert said.startswith("weights     vit-b-300ep.pth.tar: official MoCo v3, all ") and said.count("\n") == 1
    assert "heads and momentum encoder" in said and "random" not in said
    projector = encoder.head if vit else encoder.fc
    setattr(encoder, "head" if vit else "fc", nn.Identity())
    assert_same(model, features(encoder))
    z = torch.randn(4, model.width)
    assert torch.equal(features(model.projector, z), features(projector, z))
    state = torch.load(path)["state_dict"]
    ours = model.state_dict()
    for name in ("momentum_encoder.norm.weight" if vit else "momentum_encoder.bn1.running_var", "predictor.0.weight"):
        key = name.replace("momentum_encoder", "momentum_backbone")
        assert torch.equal(ours[key], state[f"module.{name}"])


def test_load_start__heads_of_another_size_stay_random_and_the_momentum_encoder_is_the_backbone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, encoder = official(tmp_path)
    model = started(path, projector_hidden=48)
    assert "heads start from random weights (theirs are of another kind: " in capsys.readouterr().out
    encoder.head = nn.Identity()
    assert_same(model, features(encoder))
    assert torch.equal(features(model.momentum_backbone), features(model.backbone))
    random = method(projector_hidden=48)
    assert torch.equal(model.projector[0].weight, random.projector[0].weight)


def test_load_start__number_of_heads_that_no_tensor_shows(tmp_path: Path) -> None:
    small: Any = timm.create_model("vit_small_patch16_224", depth=1, img_size=32, num_heads=12, num_classes=0)
    torch.save(
        {"state_dict": {f"module.base_encoder.{k}": v for k, v in small.state_dict().items()}}, tmp_path / "s.pth"
    )
    settings = {"backbone": "vit_small_patch16_224", "image_size": 32, "backbone_options": {"depth": 1}}
    with pytest.raises(
        ValueError, match=r"12 attention heads, model.backbone vit_small_patch16_224 has 6.*num_heads: 12"
    ):
        started(tmp_path / "s.pth", **settings)
    started(tmp_path / "s.pth", **{**settings, "backbone_options": {"depth": 1, "num_heads": 12}})


# Other layouts.


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (ViTConfig(image_size=64, patch_size=16, hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
                   intermediate_size=192, layer_norm_eps=1e-6), {}),
        (ViTMAEConfig(image_size=64, patch_size=16, hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
                      intermediate_size=192, layer_norm_eps=1e-6, mask_ratio=0.0), {}),
        (Dinov2Config(image_size=64, patch_size=16, hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
                      mlp_ratio=3, layer_norm_eps=1e-6),
         {"backbone_options": {"depth": 2, "init_values": 1.0}}),
        (ResNetConfig(embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[1, 1, 1, 1], layer_type="basic"),
         RESNET),
    ],
    ids=["vit", "mae", "dinov2", "resnet"],
)  # fmt: skip
def test_load_start__transformers(
    tmp_path: Path, config: PretrainedConfig, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = save_transformers(tmp_path / "hub", config)
    with torch.no_grad():
        order = {"noise": torch.arange(16.0).expand(3, 16)} if config.model_type == "vit_mae" else {}
        out = theirs(IMAGES, **order)
    expected = out.pooler_output.flatten(1) if config.model_type == "resnet" else out.last_hidden_state[:, 0]
    assert_same(started(tmp_path / "hub", **settings), expected)
    assert f"transformers' {config.model_type}" in capsys.readouterr().out


@pytest.mark.parametrize("wrap", [
    lambda state: state,
    lambda state: {"model": state, "epoch": 7},
    lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
    lambda state: {"student": {}, "teacher": {f"module.backbone.{n}": v for n, v in state.items()}
                   | {"module.head.mlp.0.weight": torch.ones(2)}},
])  # fmt: skip
def test_load_start__state_dict_of_torchvision_as_projects_wrap_it(
    tmp_path: Path, wrap: Callable[[dict[str, Tensor]], dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = shaken(tv_resnet())
    torch.save(wrap({k: v for k, v in theirs.state_dict().items() if "num_batches" not in k}), tmp_path / "a.pth")
    model = started(tmp_path / "a.pth", **RESNET)
    assert "left out " in (said := capsys.readouterr().out) and "fc.weight" in said
    theirs.fc = nn.Identity()
    assert_same(model, features(theirs))


def test_load_start__safetensors_of_timm_in_half_precision(tmp_path: Path) -> None:
    theirs = shaken(timm.create_model("test_vit", depth=2, img_size=64)).half()
    save_file(theirs.state_dict(), tmp_path / "a.safetensors")
    model = started(tmp_path / "a.safetensors")
    theirs.reset_classifier(0)
    assert_same(model, features(theirs.float()))
    assert model.backbone.norm.weight.dtype == torch.float32


def test_load_start__folder_of_timm_warns_of_other_colours(tmp_path: Path) -> None:
    theirs = shaken(timm.create_model("test_vit", depth=2, img_size=64, num_classes=0))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    colours = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_vit", "pretrained_cfg": colours}))
    with pytest.warns(UserWarning, match=r"set model\.(mean|std) to \[0\.5, 0\.5, 0\.5\]"):
        model = started(tmp_path)
    assert_same(model, features(theirs))
    started(tmp_path, **colours)  # no warning


def test_load_start__transformers_with_other_colours(tmp_path: Path) -> None:
    config = ViTConfig(image_size=64, patch_size=16, hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
                       intermediate_size=192)  # fmt: skip
    save_transformers(tmp_path, config)
    colours = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.229, 0.224, 0.225]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(colours))
    with pytest.warns(UserWarning, match=r"set model\.mean to \[0\.5, 0\.5, 0\.5\]") as warned:
        started(tmp_path)
    assert len(warned) == 1
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5')
    with pytest.raises(ValueError, match=r"model\.weights: .*preprocessor_config\.json cannot be read"):
        started(tmp_path)


@pytest.mark.parametrize("weights", ["timm", "timm:r160_in1k", "hf:timm/test_vit.r160_in1k"])
def test_load_start__timm_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str) -> None:
    theirs = shaken(timm.create_model("test_vit", num_classes=1000))
    save_file(theirs.state_dict(), tmp_path / "a")
    in_hub_cache(tmp_path, "timm/test_vit.r160_in1k", "model.safetensors", tmp_path / "a")
    config = {"architecture": "test_vit", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    snapshot = next(tmp_path.glob("*/snapshots/*"))
    (snapshot / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    colours = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    model = started(weights, image_size=160, backbone_options=None, **colours)
    theirs.reset_classifier(0)
    images = torch.randn(2, 3, 160, 160)
    assert torch.allclose(features(model.backbone, images), features(theirs, images), atol=1e-5)


# Checkpoints of our own trainings.


def test_load_start__own_checkpoint_of_the_same_method_with_its_heads(tmp_path: Path) -> None:
    theirs = method(seed=1)
    model = started(own(tmp_path / "a.ckpt", theirs))
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in model.state_dict().items())


def test_load_start__own_checkpoint_of_another_method_gives_its_backbone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = NNCLR(**VIT, image_size=64, seed=1, support_size=8)
    model = started(own(tmp_path / "a.ckpt", theirs))
    assert "heads start from random weights" in capsys.readouterr().out
    assert_same(model, features(theirs.backbone))


def test_load_start__own_checkpoint_with_another_number_of_heads(tmp_path: Path) -> None:
    theirs = method(backbone_options={"depth": 2, "num_heads": 4})
    with pytest.raises(ValueError, match=r"has 4 attention heads, model.backbone test_vit has 2"):
        started(own(tmp_path / "a.ckpt", theirs))


def test_fit__a_trainer_alone_starts_from_weights_and_goes_on_without_them(tmp_path: Path) -> None:
    model = method(own(tmp_path / "a.ckpt", method(seed=1)))
    first = train(model, batches(2, 64), max_epochs=1, enable_checkpointing=False, limit_train_batches=2)
    again = train(method(seed=1), batches(2, 64), max_epochs=1, enable_checkpointing=False, limit_train_batches=2)
    assert [step["train/loss"] for step in first.steps] == [step["train/loss"] for step in again.steps]
    model.trainer.save_checkpoint(tmp_path / "b.ckpt")
    (tmp_path / "a.ckpt").unlink()
    train(method(tmp_path / "a.ckpt"), batches(2, 64), ckpt_path=tmp_path / "b.ckpt")
    with pytest.raises(FileNotFoundError, match="a.ckpt does not exist"):
        train(method(tmp_path / "a.ckpt"), batches(2, 64))


# Image sizes.


def test_load_start__sine_cosine_positions_are_computed_anew_and_others_interpolated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs: Any = timm.create_model("test_vit", depth=2, img_size=96, num_classes=0)
    with torch.no_grad():
        theirs.pos_embed.copy_(sincos_position_embedding(64, 6))
    torch.save(theirs.state_dict(), tmp_path / "fixed.pth")
    model = started(tmp_path / "fixed.pth", fixed_position=False)
    assert torch.equal(model.backbone.pos_embed, sincos_position_embedding(64, 4))
    assert torch.equal(model.momentum_backbone.pos_embed, model.backbone.pos_embed)
    assert "position embedding (sine-cosine) computed for 4 x 4" in capsys.readouterr().out

    rows = torch.linspace(-1, 1, 6).repeat_interleave(6)  # a ramp stays one, but at the edges
    with torch.no_grad():
        theirs.pos_embed.copy_(torch.cat([torch.full((1,), 5.0), rows])[None, :, None].expand(1, 37, 64))
    torch.save(theirs.state_dict(), tmp_path / "learned.pth")
    position = started(tmp_path / "learned.pth").backbone.pos_embed[0, :, 0]
    assert "position embedding interpolated from 6 x 6 to 4 x 4" in capsys.readouterr().out
    assert position[0] == 5
    ramp = position[1:].view(4, 4)
    assert torch.allclose(ramp, ramp[:, :1].expand(4, 4)) and torch.allclose(ramp, -ramp.flip(0), atol=1e-6)
    assert math.isclose(ramp[2, 0] - ramp[1, 0], 1.5 * 0.4, abs_tol=0.05)
