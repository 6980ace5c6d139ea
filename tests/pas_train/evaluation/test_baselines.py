"""Published and random backbones by name, each with the features of the library that wrote it."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from transformers import (
    BertConfig,
    CLIPConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    ConvNextConfig,
    PretrainedConfig,
    ResNetConfig,
    SwinConfig,
    ViTConfig,
    ViTMAEConfig,
)

from pas_train.evaluation.baselines import check_baselines, check_names, load_baseline
from pas_train.evaluation.candidates import Candidate, identity
from pas_train.heads import moco_v3_predictor, moco_v3_projector
from tests.pas_train.published import in_hub_cache, save_transformers, shaken

SIZE = 64
IMAGES = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "image_size": 32,
    "patch_size": 16,
}  # fmt: skip


@torch.no_grad()
def features(candidate: Candidate, images: torch.Tensor = IMAGES) -> torch.Tensor:
    assert candidate.backbone is not None
    return candidate.backbone.eval()(images)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "pixel",
            r"evaluation\.baselines: pixel is unknown \(did you mean pixels\?\); "
            "choices: pixels, untrained, start",
        ),
        ("resnet18", r"resnet18 is unknown \(did you mean timm:resnet18\?\)"),
        ("timm:resnet81", r"timm:resnet81: timm has no model resnet81; close matches: .*resnet18"),
        ("random:vit_tny_patch16_224", r"close matches: vit_tiny_patch16_224"),
        ("timm:resnet18?seed=1", r"seed=1 is no option of timm:, which takes none"),
        ("random:resnet18?seed=x", r"seed must be a number from 0, got x"),
        ("mocov3:a.pth?arch=b", r"arch=b is no option of mocov3:, which takes \?backbone="),
        ("hf:", r"hf: is unknown"),
    ],
)
def test_check_names__unknown_ones_with_what_is_close(name: str, said: str) -> None:
    check_names(
        ["pixels", "timm:resnet18.a1_in1k", "hf:a/b", "mocov3:a.pth?backbone=resnet50", "random:resnet18?seed=3"]
    )
    with pytest.raises(ValueError, match=said):
        check_names(["untrained", name])


def test_random__by_its_seed_and_without_a_trace() -> None:
    before = torch.get_rng_state()
    one, same, other = (load_baseline(f"random:test_resnet{more}", SIZE) for more in ("", "?seed=0", "?seed=1"))
    assert torch.equal(before, torch.get_rng_state())
    assert identity(one.backbone) == identity(same.backbone) != identity(other.backbone)
    assert (one.kind, one.title, one.architecture) == ("untrained", "random test_resnet", "test_resnet")
    assert features(one).shape == (3, one.backbone.num_features)  # type: ignore[union-attr]


def test_random__a_transformer_is_made_for_the_size() -> None:
    assert features(load_baseline("random:test_vit", SIZE)).shape == (3, 64)
    with pytest.raises(ValueError, match=r"random:test_vit cannot take images of 60 px \(its patches of 16 px do not"):
        load_baseline("random:test_vit", 60)
    with pytest.raises(ValueError, match=r"cannot take images of 8 px .*set evaluation.image_size to 160"):
        load_baseline("random:test_convnext", 8)


def timm_weights(name: str, folder: Path, **more: Any) -> nn.Module:
    """A folder as timm's save_for_hf writes it, and its model."""
    model = shaken(timm.create_model(name, num_classes=0, **more))
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors")
    config = {
        "architecture": name, "num_classes": 0, "num_features": model.num_features, "model_args": more,
        "pretrained_cfg": {**model.pretrained_cfg, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "num_classes": 0},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, default=str))
    return model


def test_hf__a_folder_of_timm(tmp_path: Path) -> None:
    model = timm_weights("test_resnet", tmp_path / "mine")
    found = load_baseline(f"hf:{tmp_path / 'mine'}", SIZE)
    torch.testing.assert_close(features(found), model(IMAGES))
    assert (found.title, found.kind, found.architecture) == ("mine", "published", "test_resnet")
    assert tuple(found.mean) == (0.1, 0.2, 0.3) and tuple(found.std) == (0.4, 0.5, 0.6)


def test_timm__weights_from_the_hubs_cache_for_another_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = timm_weights("test_vit", tmp_path / "made")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    in_hub_cache(tmp_path / "hub", "timm/test_vit.r160_in1k", "model.safetensors", tmp_path / "made/model.safetensors")
    found = load_baseline("timm:test_vit", 160)
    torch.testing.assert_close(features(found, torch.ones(1, 3, 160, 160)), model(torch.ones(1, 3, 160, 160)))
    assert found.title == "test_vit" and tuple(found.mean) == model.pretrained_cfg["mean"]
    assert features(load_baseline("timm:test_vit.r160_in1k", SIZE)).shape == (3, 64)  # positions are interpolated


def test_timm__missing_weights_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"baselines: timm:test_vit: .* are not here .*baselines: \[hf:DIR\]"):
        check_baselines(["pixels", "timm:test_vit"], SIZE)
    with pytest.raises(FileNotFoundError, match=r"the weights hf:some/one are not here and cannot be fetched"):
        check_baselines(["hf:some/one"], SIZE)
    with pytest.raises(ValueError, match=r"timm has no weights a1 of test_vit; its tags are r160_in1k"):
        check_baselines(["timm:test_vit.a1"], SIZE)


def vision(folder: Path, config: PretrainedConfig, size: int = 32) -> tuple[Candidate, Any]:
    model = save_transformers(folder, config)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2]}')
    return load_baseline(f"hf:{folder}", size), model


def test_hf__a_vit_gives_its_class_token_at_any_size(tmp_path: Path) -> None:
    found, model = vision(tmp_path, ViTConfig(**SMALL), SIZE)
    with torch.no_grad():
        expected = model(pixel_values=IMAGES, interpolate_pos_encoding=True).last_hidden_state[:, 0]
    torch.testing.assert_close(features(found), expected)
    assert hasattr(found.backbone, "pos_embed") and tuple(found.mean) == (0.5,) * 3 and tuple(found.std) == (0.2,) * 3
    assert found.architecture == "vit"


def test_hf__a_masked_autoencoder_sees_the_whole_image(tmp_path: Path) -> None:
    found, model = vision(tmp_path, ViTMAEConfig(**SMALL, mask_ratio=0.75))
    images = IMAGES[:, :, :32, :32]
    torch.testing.assert_close(features(found, images), features(found, images), atol=1e-5, rtol=1e-4)
    whole = copy.deepcopy(model)
    whole.config.mask_ratio = 0.0
    with torch.no_grad():
        expected = whole(pixel_values=images).last_hidden_state[:, 0]
    torch.testing.assert_close(features(found, images), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
        ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2),
        SwinConfig(image_size=64, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4),
    ],
    ids=["resnet", "convnext", "swin"],
)
def test_hf__others_give_what_they_pool(tmp_path: Path, config: PretrainedConfig) -> None:
    found, model = vision(tmp_path, config, SIZE)
    with torch.no_grad():
        expected = model(pixel_values=IMAGES).pooler_output.flatten(1)
    torch.testing.assert_close(features(found), expected)
    assert not hasattr(found.backbone, "pos_embed") and expected.std() > 0


def test_hf__of_clip_its_image_tower(tmp_path: Path) -> None:
    text = CLIPTextConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=9
    )
    config = CLIPConfig(text_config=text.to_dict(), vision_config=CLIPVisionConfig(**SMALL).to_dict())
    found, model = vision(tmp_path, config)
    images = IMAGES[:, :, :32, :32]
    with torch.no_grad():
        expected = model.vision_model(pixel_values=images).pooler_output
    torch.testing.assert_close(features(found, images), expected)
    assert hasattr(found.backbone, "pos_embed")  # it is a vision transformer


def test_hf__what_takes_no_images_is_refused(tmp_path: Path) -> None:
    save_transformers(tmp_path, BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, vocab_size=9,
                                           intermediate_size=16))  # fmt: skip
    with pytest.raises(ValueError, match=r"it is a bert of transformers, which takes no images"):
        load_baseline(f"hf:{tmp_path}", 32)


def moco(folder: Path, name: str = "vit-s.pth.tar") -> tuple[Path, nn.Module]:
    """A file as main_moco.py saves it, of timm's smallest transformer, and its query encoder without the head."""
    encoder: Any = shaken(timm.create_model("test_vit", img_size=SIZE, num_classes=0))
    head = moco_v3_projector(64, 32, 16, True)
    tensors = {**encoder.state_dict(), **{f"head.{key}": value for key, value in head.state_dict().items()}}
    state = {f"module.{side}_encoder.{key}": value for side in ("base", "momentum") for key, value in tensors.items()}
    state |= {f"module.predictor.{key}": value for key, value in moco_v3_predictor(32, 16, True).state_dict().items()}
    torch.save({"epoch": 300, "arch": "vit_small", "state_dict": state}, folder / name)
    return folder / name, encoder


def test_mocov3__an_official_checkpoint(tmp_path: Path) -> None:
    path, encoder = moco(tmp_path)
    found = load_baseline(f"mocov3:{path}?backbone=test_vit", SIZE)
    torch.testing.assert_close(features(found), encoder(IMAGES).detach())
    assert (found.kind, found.title, found.architecture) == ("published", "vit-s", "test_vit")


def test_mocov3__files_that_do_not_fit_or_are_not_there(tmp_path: Path) -> None:
    path, _ = moco(tmp_path, "mine.pth")
    with pytest.raises(
        ValueError, match=r"which architecture it is of cannot be told from its name; write \?backbone="
    ):
        load_baseline(f"mocov3:{path}", SIZE)
    with pytest.raises(ValueError, match=r"mine.pth\?backbone=resnet18 .* does not fit"):
        load_baseline(f"mocov3:{path}?backbone=resnet18", SIZE)
    with pytest.raises(FileNotFoundError, match=r"vit-b-300ep.pth.tar does not exist. Download it from https"):
        load_baseline("mocov3:vit-b-300ep.pth.tar", SIZE)
