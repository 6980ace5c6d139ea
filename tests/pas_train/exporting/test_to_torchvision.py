"""State dicts that torchvision's classes take."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock

from pas_train.exporting import to_torchvision
from pas_train.exporting.export import export
from pas_train.exporting.registry import target
from tests.pas_train.exporting.small_sources import resnet, vit

SOURCES = {
    "resnet18": resnet,
    "resnet50": lambda: resnet("resnet50"),
    "resnext50": lambda: resnet("resnext50_32x4d"),
    "wide resnet50": lambda: resnet("wide_resnet50_2"),
    "vit": vit,
    "vit with odd widths": lambda: vit(embed_dim=36, num_heads=3, mlp_ratio=2.5),
}


@pytest.mark.parametrize("name", SOURCES)
def test_torchvision__computes_the_same(name: str, tmp_path: Path) -> None:
    verified = export(SOURCES[name](), "torchvision", tmp_path / "out")
    assert verified.by.startswith("torchvision ") and verified.difference <= 2e-5 * verified.scale


def test_torchvision__a_resnet_lacks_the_classifier_alone(tmp_path: Path) -> None:
    source = resnet()
    export(source, "torchvision", tmp_path / "out")
    model = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5)
    told = model.load_state_dict(torch.load(tmp_path / "out" / "backbone.pth"), strict=False)
    assert set(told.missing_keys) == {"fc.weight", "fc.bias"} and not told.unexpected_keys
    assert torch.equal(model.layer4[0].bn2.running_var, source.state["layer4.0.bn2.running_var"])


def test_torchvision__a_broken_map_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swapped = {"norm1.": "ln_2.", "norm2.": "ln_1."}
    monkeypatch.setattr(to_torchvision, "PARTS", {**to_torchvision.PARTS, **swapped})
    with pytest.raises(ValueError, match="--to torchvision: the export is not what .* features differ: embedding"):
        export(vit(), "torchvision", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: resnet("resnet10t"), "a stem of small convolutions, average pooling in its shortcuts"),
        (lambda: resnet(channels=[16, 32, 64, 128]), "tensors of other names or shapes .*--to transformers, timm"),
        (lambda: resnet(small_images=True), "model.small_images.*: take --to plain, onnx or torchscript$"),
        (lambda: vit(qkv_bias=False), "no biases of its queries, keys and values.*--to transformers, timm"),
        (lambda: vit(pre_norm=True), "a norm before its blocks"),
    ],
)
def test_torchvision__refuses_what_it_cannot_hold(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"^--to torchvision: .*{said}"):
        target("torchvision").check(make())


def test_torchvision__the_same_gives_the_same_bytes(tmp_path: Path) -> None:
    source = resnet()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        target("torchvision").write(source, tmp_path / name)
    one, two = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two and set(one) == {"backbone.pth", "model.json"}
