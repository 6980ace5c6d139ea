"""Each layout is written by the library that publishes it, and the features are compared before and after."""

import copy
import io
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
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock
from transformers import AutoModel, Dinov2Config, PretrainedConfig, ResNetConfig, ViTConfig, ViTMAEConfig
from transformers.utils import logging

from pas_train.backbones import sincos_position_embedding
from pas_train.heads import moco_v3_predictor, moco_v3_projector
from pas_train.methods import NNCLR, MoCoV3
from pas_train.methods.base import PretrainingMethod
from pas_train.weight_files import look_for, source_of
from pas_train.weights import (
    check_start,
    figures_path,
    is_published,
    load_published,
    load_start,
    origin_of_start,
    own_start,
)
from tests.pas_train.methods.small_training import batches, train

VIT = {"backbone": "test_vit", "backbone_options": {"depth": 2}}  # 64 wide, 2 heads, 16 px patches
RESNET = {"backbone": "resnet18", "backbone_options": {"layers": [1, 1, 1, 1]}}
HEADS = {"projector_hidden": 32, "projector_dim": 16}
IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def quiet() -> None:
    logging.disable_progress_bar()
    torch.manual_seed(0)


def method(weights: object = None, image_size: int = 64, **settings: Any) -> MoCoV3:
    return MoCoV3(**{**VIT, **HEADS, "image_size": image_size, "weights": weights and str(weights), **settings})


def started(weights: object, **settings: Any) -> MoCoV3:
    model = method(weights, **settings)
    load_start(model)
    return model


@torch.no_grad()
def features(backbone: nn.Module, images: Tensor = IMAGES) -> Tensor:
    return backbone.eval()(images)


def assert_same(model: PretrainingMethod, expected: Tensor) -> None:
    assert torch.allclose(features(model.backbone), expected, atol=1e-5) and expected.std() > 0.01


def shaken(module: nn.Module) -> nn.Module:
    """With other values than any initialisation has, running statistics included."""
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.add_(0.1 * torch.rand_like(value))
    return module.eval()


def official(folder: Path, vit: bool = True, **more: Any) -> tuple[Path, nn.Module]:
    """A checkpoint as MoCo v3's main_moco.py saves it, and its query encoder."""
    encoders = []
    for _ in range(2):
        encoder: Any = (
            timm.create_model(str(VIT["backbone"]), img_size=64, num_classes=0, depth=2) if vit else tv_resnet()
        )
        head = moco_v3_projector(64 if vit else 512, 32, 16, vit)
        setattr(encoder, "head" if vit else "fc", head)
        encoders.append(shaken(encoder))
    parts = {
        "base_encoder": encoders[0], "momentum_encoder": encoders[1], "predictor": moco_v3_predictor(32, 16, vit)
    }  # fmt: skip
    state = {f"module.{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    optimizer = torch.optim.AdamW(encoders[0].parameters())
    content = {"epoch": 300, "arch": "vit_base", "state_dict": state, "optimizer": optimizer.state_dict(), "scaler": {}}
    torch.save({**content, **more}, folder / "vit-b-300ep.pth.tar")
    return folder / "vit-b-300ep.pth.tar", encoders[0]


def tv_resnet() -> ResNet:
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5)


def save_transformers(folder: Path, config: PretrainedConfig) -> Any:
    model: Any = shaken(AutoModel.from_config(config))
    model.save_pretrained(folder)
    return model


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


def in_hub_cache(folder: Path, repository: str, file: str, content: Path) -> None:
    """As the hub's library keeps a downloaded file."""
    base = folder / f"models--{repository.replace('/', '--')}"
    (base / "refs").mkdir(parents=True)
    (base / "refs" / "main").write_text("0" * 40)
    (base / "snapshots" / ("0" * 40)).mkdir(parents=True)
    content.rename(base / "snapshots" / ("0" * 40) / file)


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


def own(path: Path, model: PretrainingMethod) -> Path:
    content = {"state_dict": model.state_dict(), "global_step": 3}
    torch.save({**content, "hyper_parameters": dict(model.hparams)}, path)
    return path


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


# What does not fit, and what is not there.


def broken(state: dict[str, Tensor], kind: str) -> Any:
    if kind == "missing":
        del state["module.base_encoder.blocks.1.mlp.fc1.bias"]
    elif kind == "besides":
        state["module.base_encoder.blocks.2.norm1.weight"] = torch.ones(64)
    elif kind == "shape":
        state["module.base_encoder.norm.bias"] = torch.ones(65)
    else:
        state["module.base_encoder.norm.bias"][3] = math.nan
    return state


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", r"it lacks 1 tensors \(blocks\.1\.mlp\.fc1\.bias\)"),
        ("besides", r"it has besides 1 tensors \(blocks\.2\.norm1\.weight\)"),
        ("shape", r"another shape 1 tensors \(norm\.bias \[65\], here \[64\]\)"),
        ("number", r"values that are no numbers \(norm\.bias\)"),
    ],
)
def test_load_start__what_does_not_fit_is_named_and_nothing_loaded(tmp_path: Path, kind: str, said: str) -> None:
    path, _ = official(tmp_path)
    torch.save({"state_dict": broken(torch.load(path)["state_dict"], kind)}, path)
    model = method(path)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=rf"^model\.weights: vit-b-300ep\.pth\.tar.*{said}"):
        load_start(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not model.started


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("no/vit-b-300ep.pth.tar", r"does not exist\. Download it from https://dl\.fbaipublicfiles\.com/moco-v3/vit-b-300ep/"),
        ("resnet50-11ad3fa6.pth", r"Download it from https://download\.pytorch\.org/models/resnet50-11ad3fa6\.pth"),
        ("some.pth", r"does not exist\. Weights are a file .* null starts from random ones"),
        ("timm:no_such", r"timm has no weights no_such of test_vit; its tags are r160_in1k"),
        ("timm", r"timm's weights of test_vit are not here .* `hf download timm/test_vit\.r160_in1k --local-dir DIR`"),
        ("hf:someone/vit", r"the weights hf:someone/vit are not here and cannot be fetched"),
    ],
)  # fmt: skip
def test_load_start__missing_weights_say_where_to_get_them(weights: str, said: str) -> None:
    with pytest.raises((ValueError, OSError), match=rf"^model\.weights: .*{said}"):
        started(weights)


def test_look_for__says_where_weights_are_or_will_be_fetched_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"")
    in_hub_cache(tmp_path, "timm/test_vit.r160_in1k", "model.safetensors", tmp_path / "a")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    here, where = look_for("timm", "test_vit")
    assert here and where.startswith(str(tmp_path)) and where.endswith("model.safetensors")
    assert look_for("timm:mae", "vit_base_patch16_224") == (
        False, "timm/vit_base_patch16_224.mae will be fetched from the Hugging Face hub when the training starts"
    )  # fmt: skip
    assert look_for("hf:someone/vit", "")[0] is False and look_for(f"hf:{tmp_path}", "") == (True, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"model\.weights: gone\.pth does not exist"):
        look_for("gone.pth", "")
    with pytest.raises(ValueError, match="no weights none of test_vit"):
        look_for("timm:none", "test_vit")


class Opened:
    def __reduce__(self) -> Any:
        return open, ("/dev/null",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>404", "it cannot be read"),
        (b"", "it cannot be read"),
        ([1, 2], "it holds a list, not tensors by name"),
        ({"epoch": 3}, r"it holds no tensors by name, but epoch"),
        ({"a": Opened()}, "it holds more than tensors and numbers"),
    ],
)
def test_load_start__other_files_are_refused(tmp_path: Path, content: Any, said: str) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    (tmp_path / "a.pth").write_bytes(content if isinstance(content, bytes) else buffer.getvalue())
    with pytest.raises(ValueError, match=rf"model\.weights: .*a\.pth: {said}"):
        started(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (ViTConfig(hidden_act="relu", num_hidden_layers=1), "its activation is relu"),
        (ResNetConfig(downsample_in_bottleneck=True), "downsample_in_bottleneck false"),
        (PretrainedConfig(model_type="swin"), "it is a .* of transformers; known are vit"),
    ],
)
def test_load_start__transformers_that_compute_otherwise_are_refused(
    tmp_path: Path, config: PretrainedConfig, said: str
) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"model\.weights: .*{said}"):
        started(tmp_path)


def test_load_start__flipped_bits_are_found(tmp_path: Path) -> None:
    path, _ = official(tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"it cannot be read \(the checksum of .* is wrong\)"):
        started(path)


def test_check_start__only_where_no_training_can_be_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        check_start(method("gone.pth"), tmp_path)
    folder = tmp_path / "training" / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "last.ckpt").touch()
    check_start(method("gone.pth"), tmp_path)


def test_origin_of_start__published_weights_cannot_be_screened(tmp_path: Path) -> None:
    origin = {"source": "m.parquet", "identity": "a", "workspace": "ws", "images": "b", "parts": []}
    assert origin_of_start(method(), origin) == origin and own_start(method()) is None
    path, _ = official(tmp_path)
    marked = origin_of_start(method(path), origin)
    assert marked["workspace"] is None and "parts" not in marked and str(path) in marked["why"]
    model = method(own(tmp_path / "a.ckpt", method()))  # what this one has seen, it says itself
    assert own_start(model) == tmp_path / "a.ckpt" and origin_of_start(model, origin) == origin


# Evaluation.


def test_load_published__takes_what_is_no_checkpoint_of_a_training(tmp_path: Path) -> None:
    path, encoder = official(tmp_path)
    model = method(projector_hidden=48)
    assert load_published(model, own(tmp_path / "a.ckpt", model)) is None
    assert load_published(model, None) is None
    found = load_published(model, path)
    assert found is not None and found["global_step"] is None
    encoder.head = nn.Identity()
    assert_same(model, features(encoder))
    with pytest.raises(
        ValueError, match=r"^--ckpt_path: vit-b-300ep\.pth\.tar .* does not fit model\.backbone resnet18"
    ):
        load_published(method(**RESNET), path)


@pytest.mark.parametrize("content", [b"", b"<html>404", b"PK\x03\x04 cut", b"\x80\x02."])
def test_is_published__damaged_files_are_left_to_those_who_know_trainings(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.ckpt").write_bytes(content)
    assert not is_published(tmp_path / "a.ckpt")


def test_is_published__old_formats_and_names(tmp_path: Path) -> None:
    torch.save(tv_resnet().state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert is_published(tmp_path / "old.pth") and is_published("timm") and is_published("hf:a/b")
    assert is_published("vit-b-300ep.pth.tar") and not is_published("gone.ckpt")
    assert source_of("resnext50_32x4d-1a0047aa.pth") and source_of("other.pth") is None


def test_figures_path__beside_a_checkpoint_or_in_the_workspace(tmp_path: Path) -> None:
    assert figures_path(str(tmp_path / "step=8.ckpt"), tmp_path) == tmp_path / "step=8.evaluation.json"
    torch.save({"layer.weight": torch.zeros(1)}, tmp_path / "b.pth.tar")  # perhaps in a folder that all share
    assert figures_path(str(tmp_path / "b.pth.tar"), tmp_path) == tmp_path / "evaluation" / "b.pth.evaluation.json"
    assert figures_path("hf:facebook/dino-vits16", tmp_path).name == "facebook-dino-vits16.evaluation.json"
    assert figures_path("timm:r160_in1k", tmp_path).parent == tmp_path / "evaluation"
