"""CLIPN's published checkpoint files, written here in small."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from curation.clipn import NoBranch, load_no_branch
from curation.clipn_checkpoints import holds_no_tower, read_weights
from curation.encoders import ImageTextEncoder
from tests.tiny import CLIP

open_clip = pytest.importorskip("open_clip")
TEXTS = ["a cat", "a dog"]


def clip(seed: int = 0, layout: type[nn.Module] = open_clip.CLIP) -> nn.Module:
    torch.manual_seed(seed)
    return layout(**CLIP["model_cfg"]).eval()


def shaken(model: nn.Module) -> NoBranch:
    branch, generator = NoBranch(model), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in branch.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return branch.eval()


@pytest.fixture
def name(tmp_path: Path) -> str:
    """An architecture that open_clip knows by name."""
    (tmp_path / "tiny-clipn.json").write_text(json.dumps(CLIP["model_cfg"]))
    open_clip.add_model_config(tmp_path)
    return "tiny-clipn"


def save_official(path: Path, model: nn.Module, **changed: Tensor | None) -> Path:
    """As CLIPN's training writes it: both text towers in one model, wrapped for several GPUs, with the optimizer."""
    state: dict[str, Tensor | None] = {**model.state_dict(), **shaken(model).state_dict(), **changed}
    state = {f"module.{key}": value for key, value in state.items() if value is not None}
    weight = nn.Parameter(torch.zeros(3))
    # Its cosine schedule writes numpy numbers into the optimizer's groups.
    optimizer = torch.optim.AdamW([{"params": [weight], "weight_decay": 0.0}], lr=3e-4)
    optimizer.param_groups[0]["lr"] = 0.5 * (1 + np.cos(np.pi * 0.3)) * 3e-4
    torch.save({"epoch": 10, "name": "x", "state_dict": state, "optimizer": optimizer.state_dict()}, path)
    return path


def test_image_text_encoder__all_towers_of_an_official_checkpoint(name: str, tmp_path: Path) -> None:
    model = clip(3)
    path = save_official(tmp_path / "epoch_10.pt", model)
    encoder = ImageTextEncoder.load(name, str(path), key="curation.embed.clipn")
    tokens = open_clip.SimpleTokenizer(context_length=12)(TEXTS)
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    normalised = (images / 255 - encoder.mean / 255) / (encoder.std / 255)
    with torch.no_grad():
        for found, expected in (
            (encoder.embed_images(images), model.encode_image(normalised)),
            (encoder.embed_texts(TEXTS), model.encode_text(tokens)),
            (encoder.embed_no_texts(TEXTS), shaken(model)(tokens)),
        ):
            torch.testing.assert_close(found, nn.functional.normalize(expected, dim=1), atol=1e-5, rtol=0)
    loaded = {**encoder.model.state_dict(), **encoder.no_branch.state_dict()}
    stored = read_weights(path, "x")
    assert set(loaded) == set(stored) and all(torch.equal(loaded[key], stored[key]) for key in stored)
    assert not any(isinstance(module, open_clip.model.QuickGELU) for module in encoder.modules())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"visual.proj": None}, "missing visual.proj$"),
        ({"visual.extra": torch.zeros(1)}, "left over visual.extra$"),
        ({"ln_final.bias": None, "more": torch.zeros(1)}, "missing ln_final.bias; left over more$"),
        ({"text_projection": torch.zeros(16, 8)}, "of another shape text_projection$"),
        ({"prompt_no": None}, r"missing prompt_no \(CLIPN's hand-crafted variant"),
        ({"transformer_no.resblocks.7.ln_1.bias": torch.zeros(16)}, "left over transformer_no.resblocks.7.ln_1.bias$"),
    ],
)
def test_image_text_encoder__keys_that_do_not_fit_are_listed(
    name: str, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    path = save_official(tmp_path / "epoch_10.pt", clip(), **changed)
    with pytest.raises(ValueError, match=rf"^curation\.embed\.clipn\.pretrained: .*does not fit.*: {message}"):
        ImageTextEncoder.load(name, str(path), key="curation.embed.clipn")


@pytest.mark.parametrize("layout", [open_clip.CLIP, open_clip.CustomTextCLIP])
def test_load_no_branch__whole_checkpoint_of_the_same_model(tmp_path: Path, layout: type[nn.Module]) -> None:
    path = save_official(tmp_path / "epoch_10.pt", clip(3), logit_scale=torch.tensor(4.6))
    model = clip(0, layout)
    own = {f"text.{key}" if not key.startswith(("visual", "logit")) else key: value
           for key, value in clip(3).state_dict().items()}  # fmt: skip
    model.load_state_dict(clip(3).state_dict() if layout is open_clip.CLIP else own, strict=False)
    model.half().float()  # as weights that were published in half precision
    expected = shaken(clip(3)).state_dict()
    loaded = load_no_branch(model, path).state_dict()
    assert set(loaded) == set(expected) and all(torch.equal(loaded[key], expected[key]) for key in expected)


def test_load_no_branch__checkpoint_of_another_base(tmp_path: Path) -> None:
    path = save_official(tmp_path / "epoch_10.pt", clip(3))
    message = (
        r"^curation\.ood\.no_branch: .*is not of this image-text model: it was trained beside another one .*visual"
    )
    with pytest.raises(ValueError, match=message):
        load_no_branch(clip(0), path)
    path = save_official(tmp_path / "less.pt", clip(), **{"visual.proj": None})
    with pytest.raises(ValueError, match="is not of this image-text model: missing visual.proj$"):
        load_no_branch(clip(), path)


def test_holds_no_tower__told_from_the_names_alone(tmp_path: Path) -> None:
    model = clip()
    torch.save(model.state_dict(), tmp_path / "plain.pt")
    save_file(dict(NoBranch(model).state_dict()), tmp_path / "no.safetensors")
    (tmp_path / "page.pt").write_bytes(b"<html>404</html>")
    found = {path.name for path in (*tmp_path.iterdir(), tmp_path / "absent.pt") if holds_no_tower(path)}
    assert found == {"no.safetensors"}


def test_read_weights__runs_no_code_of_a_file(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "harm",))

    torch.save({"state_dict": {"a": torch.zeros(1)}, "optimizer": Harm()}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match=r"^key: .*bad\.pt is damaged or no weight file"):
        read_weights(tmp_path / "bad.pt", "key")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "bad.pt", weights_only=True)
    assert not (tmp_path / "harm").exists()
