"""Folders that transformers opens: the same features, the same preparation of images, and clear refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification

from datamodules.labelled import centre_crop
from pas_train import weight_layouts
from pas_train.exporting.export import export
from pas_train.exporting.registry import target
from pas_train.weight_files import read_weights
from tests.pas_train.exporting.small_sources import MEAN, STD, resnet, vit

SOURCES = {
    "vit": vit,
    "vit with odd widths": lambda: vit(embed_dim=36, num_heads=3, mlp_ratio=2.5, qkv_bias=False),
    "resnet18": resnet,
    "resnet50": lambda: resnet("resnet50"),
    "resnet18 of quarter width": lambda: resnet(channels=[16, 32, 64, 128]),
}


@pytest.mark.parametrize("name", SOURCES)
def test_transformers__auto_model_computes_the_embedding(name: str, tmp_path: Path) -> None:
    source = SOURCES[name]()
    verified = export(source, "transformers", tmp_path / "out")
    assert verified.by.startswith("transformers ") and verified.difference <= 1e-6 * verified.scale
    modes = {file.stat().st_mode for file in (tmp_path / "out").iterdir()}
    assert len(modes) == 1  # others may read the weights who may read the card
    model, report = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    images = torch.randn(3, 3, source.image_size, source.image_size)
    with torch.no_grad():
        embedding = model.eval()(images).pooler_output.flatten(1)
    assert torch.allclose(embedding, source.outputs(images)["embedding"], rtol=1e-5) and embedding.std() > 0.01


def test_transformers__its_other_models_take_the_weights(tmp_path: Path) -> None:
    source = vit()
    export(source, "transformers", tmp_path / "out")
    model, report = AutoModelForImageClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert set(report["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert torch.allclose(model.vit(images).last_hidden_state[:, 0], source.backbone(images), atol=1e-5)


@pytest.mark.parametrize("backend", ["pil", "torchvision"])
@pytest.mark.parametrize("side", [224, 384])
def test_transformers__image_processor_does_the_test_transform(backend: str, side: int, tmp_path: Path) -> None:
    target("transformers").write(resnet(size=side), tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
    noise = np.random.default_rng(0).integers(0, 256, (30, 37, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((430, 350), Image.Resampling.BICUBIC)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    theirs = processor(picture, return_tensors="pt")["pixel_values"][0] * std + mean
    ours = torch.from_numpy(centre_crop(np.asarray(picture), side)) / 255
    if side == 384:  # 539 x 439 px: of 155 and 55 too many, theirs cuts 77 and 27 before, ours 78 and 28
        theirs, ours = theirs[:, 1:, 1:], ours[:, :-1, :-1]
    assert theirs.shape == ours.shape and (theirs - ours).abs().max() < (0.01 if backend == "pil" else 1.5) / 255


def test_transformers__a_broken_map_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts: dict[str, str] = weight_layouts._VIT_PARTS
    swapped = {"layernorm_before": "norm2", "layernorm_after": "norm1"}
    monkeypatch.setattr(weight_layouts, "_VIT_PARTS", {**parts, **swapped})
    with pytest.raises(ValueError, match="--to transformers: the export is not what .* features differ: embedding"):
        export(vit(), "transformers", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_transformers__a_map_that_loses_a_name_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_layouts, "_VIT_ENDS", {"embeddings.cls_token": "cls_token"})
    with pytest.raises(ValueError, match="tensors of other names or shapes"):
        export(vit(), "transformers", tmp_path / "out")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: vit(patch_size=(16, 8)), "patches that are no squares, which transformers' ViTModel has no place for"),
        (lambda: vit(reg_tokens=2), "test_vit has 2 register tokens, which transformers' ViTModel has no place for"),
        (lambda: vit(init_values=0.1), "layer scale"),
        (lambda: resnet("resnet10t"), "resnet10t has a stem of small convolutions.* take --to timm, plain, onnx"),
        (lambda: resnet("resnext50_32x4d"), "grouped convolutions.* take --to torchvision, timm"),
        (lambda: resnet("wide_resnet50_2"), "blocks of another inner width"),
        (lambda: resnet(small_images=True), "model.small_images.*: take --to plain, onnx or torchscript$"),
    ],
)
def test_transformers__refuses_what_it_cannot_hold(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"^--to transformers: .*{said}"):
        target("transformers").check(make())


def test_transformers__header_tells_and_the_same_gives_the_same_bytes(tmp_path: Path) -> None:
    source = vit()
    for name in ("one", "two"):
        export(source, "transformers", tmp_path / name)
    one, two = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    with safe_open(tmp_path / "one" / "model.safetensors", "pt") as file:
        assert file.metadata()["method"] == "MoCoV3" and file.metadata()["image_size"] == "48"


def test_transformers__a_training_can_start_from_the_folder(tmp_path: Path) -> None:
    source = resnet()
    export(source, "transformers", tmp_path / "out")
    published, _ = read_weights(str(tmp_path / "out"), "model.weights", "resnet18")
    assert published.mean == MEAN and published.std == STD
    for name, value in source.state.items():
        assert torch.equal(published.tensors[f"backbone.{name}"], value)
