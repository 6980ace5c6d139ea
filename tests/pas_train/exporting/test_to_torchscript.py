"""Programs that torch runs without timm."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pas_train.exporting.export import export
from pas_train.exporting.loaders import torchscript as loader
from tests.pas_train.exporting.small_sources import resnet, vit

SOURCES = {
    "vit": vit,
    "vit with registers, no class token": lambda: vit(reg_tokens=2, class_token=False, global_pool="avg"),
    "resnet18": resnet,
    "resnet18 for small images": lambda: resnet(size=32, small_images=True),
    "resnet10t": lambda: resnet("resnet10t"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_torchscript__computes_the_same_of_any_batch(name: str, tmp_path: Path) -> None:
    source = SOURCES[name]()
    verified = export(source, "torchscript", tmp_path / "out")
    assert verified.by.startswith("torch ") and verified.difference <= 1e-6 * verified.scale
    images = torch.randn(5, 3, source.image_size, source.image_size)
    with torch.no_grad():
        model: Any = loader.load(tmp_path / "out")
        for batch in (images[:1], images):
            assert torch.allclose(model(batch), source.backbone(batch), rtol=1e-5)
    assert set(model.state_dict()) == set(source.state)


def test_torchscript__the_file_tells_what_it_is_and_nothing_of_the_machine(tmp_path: Path) -> None:
    export(resnet(), "torchscript", tmp_path / "out")
    extra = {"metadata.json": ""}
    torch.jit.load(str(tmp_path / "out" / "backbone.pt"), _extra_files=extra)
    told = json.loads(extra["metadata.json"])
    assert told["method"] == "MoCoV3" and told["image_size"] == 64 and told["architecture"] == "resnet18"
    content = (tmp_path / "out" / "backbone.pt").read_bytes()
    assert b"site-packages" not in content and str(Path(__file__).parent).encode() not in content
    assert "traced.tmp" not in {file.name for file in (tmp_path / "out").iterdir()}
