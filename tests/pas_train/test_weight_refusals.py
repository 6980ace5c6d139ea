"""What does not fit, and what is not there: named, and nothing is loaded."""

import copy
import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PretrainedConfig, ResNetConfig, ViTConfig
from transformers.utils import logging

from pas_train.weight_files import look_for
from pas_train.weights import (
    check_start,
    load_start,
    origin_of_start,
    own_start,
)
from tests.pas_train.published import (
    in_hub_cache,
    method,
    official,
    own,
    started,
)


@pytest.fixture(autouse=True)
def quiet() -> None:
    logging.disable_progress_bar()
    torch.manual_seed(0)


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
