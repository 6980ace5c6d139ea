"""The scripts of pas_train/exporting/README.md do what the page says: each is run on a few small images."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from pas_train.exporting.metadata import of_backbone
from pas_train.exporting.registry import TARGETS, target
from pas_train.exporting.source import Source
from pas_train.exporting.verifying import write_proof

PAGE = Path(__file__).parents[3] / "pas_train" / "exporting" / "README.md"
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL))
BLOCKS = {name: re.findall(r"```python\n(.*?)```", text, re.DOTALL) for name, text in SECTIONS.items()}
# What makes a script's training small; all else is run as it stands.
SMALLER = {
    r"num_workers=\d+": "num_workers=0", r"batch_size=\d+": "batch_size=2", r"epochs=\d+": "epochs=1",
    r"in range\(\d+\)": "in range(1)", r"min_size=800, max_size=1333": "min_size=64, max_size=96",
    r"RandomResizedCrop\(512": "RandomResizedCrop(64", r'"classifier", ': '"classifier", use_cpu=True, ',
}  # fmt: skip


def resnet() -> Source:
    return source("resnet18", 64)


def vit() -> Source:
    return source("test_vit", 48, depth=2, img_size=48)


def source(name: str, size: int, **options: Any) -> Source:
    torch.manual_seed(0)
    made = Source(
        timm.create_model(name, num_classes=0, **options).eval(), name, size, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), options
    )
    return Source(**{**vars(made), "metadata": of_backbone(made)})


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images by class, with masks, with boxes (and one without), in the current folder."""
    monkeypatch.chdir(tmp_path)
    stream = np.random.default_rng(0)
    for name in ("train/apple", "train/pear", "images", "masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
    entries, boxes = [], []
    for number in range(4):
        image = Image.fromarray(stream.integers(0, 256, (72, 96, 3), dtype=np.uint8))
        file = f"train/{'apple' if number % 2 else 'pear'}/{number}.jpg"
        image.save(tmp_path / "data" / file)
        image.save(tmp_path / "data" / "images" / f"{number}.jpg")
        Image.fromarray(stream.choice([0, 7, 103, 255], (72, 96)).astype(np.uint8)).save(f"data/masks/{number}.png")
        entries.append({"id": number + 1, "file_name": file, "width": 96, "height": 72})
        box = {"bbox": [8, 9, 30, 40], "area": 1200, "iscrowd": 0, "category_id": number % 2 + 1}
        boxes += [{"id": number + 1, "image_id": number + 1, **box}] if number else []
    image.save(tmp_path / "data" / "photo.jpg")
    categories = [{"id": number, "name": name} for number, name in ((1, "pear"), (2, "apple"))]
    Path("data/train.json").write_text(json.dumps({"images": entries, "annotations": boxes, "categories": categories}))
    return tmp_path


def run(name: str, of: Source, block: int = 0) -> dict[str, Any]:
    """Exports into ./export, runs a script of the page there, and returns its names."""
    made, folder = target(name), Path("export", name)
    folder.mkdir(parents=True)
    made.check(of)
    made.write(of, folder)
    write_proof(made, of, folder)
    code = BLOCKS[name][block]
    for pattern, small in SMALLER.items():
        code = re.sub(pattern, small, code)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, f"{PAGE.name}, {name}", "exec"), names)
    return names


def assert_began_as(weight: torch.Tensor, of: Source, name: str) -> None:
    """A weight after a step or two is where the export had it."""
    assert of.state[name].std() > 0.01
    assert torch.allclose(weight.detach().cpu(), of.state[name], atol=3e-3)


def test_page__has_a_section_with_its_line_for_each_target() -> None:
    assert {name for name in SECTIONS if f"--to {name}" in SECTIONS[name]} == set(TARGETS)
    assert all(BLOCKS[name] for name in TARGETS)


@pytest.mark.parametrize("name", list(TARGETS))
def test_page__scripts_compile(name: str) -> None:
    for block in BLOCKS[name]:
        compile(block, name, "exec")


def test_plain(data: Path) -> None:
    of = vit()
    backbone = run("plain", of)["backbone"]
    assert torch.equal(backbone.blocks[1].mlp.fc1.weight, of.state["blocks.1.mlp.fc1.weight"])


@pytest.mark.filterwarnings("default")
def test_timm__classifier(data: Path) -> None:
    of = vit()
    names = run("timm", of)
    assert names["loss"].isfinite() and Path("classifier.pth").exists() and names["model"].num_classes == 2
    assert_began_as(names["model"].blocks[1].attn.qkv.weight, of, "blocks.1.attn.qkv.weight")


@pytest.mark.filterwarnings("default")
def test_torchvision__detector(data: Path) -> None:
    of = resnet()
    names = run("torchvision", of)
    assert names["loss"].isfinite() and Path("detector.pth").exists() and names["classes"] == 2
    assert_began_as(names["model"].backbone.body.layer4[1].conv2.weight, of, "layer4.1.conv2.weight")
    assert torch.equal(names["model"].backbone.body.bn1.running_var.cpu(), of.state["bn1.running_var"])


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("of", [resnet(), vit()], ids=["resnet", "vit"])
def test_transformers__classifier(data: Path, of: Source) -> None:
    model = run("transformers", of)["model"]
    kept = model.state_dict()
    weight, name = (
        (kept["vit.embeddings.patch_embeddings.projection.weight"], "patch_embed.proj.weight")
        if of.transformer
        else (kept["resnet.embedder.embedder.convolution.weight"], "conv1.weight")
    )
    assert_began_as(weight, of, name)
    assert Path("classifier/model.safetensors").exists() and model.config.num_labels == 2


@pytest.mark.filterwarnings("default")
def test_transformers__segmenter(data: Path) -> None:
    of = resnet()
    names = run("transformers", of, block=1)
    assert names["loss"].isfinite() and Path("segmenter/model.safetensors").exists()
    assert_began_as(names["model"].backbone.state_dict()["embedder.embedder.convolution.weight"], of, "conv1.weight")


@pytest.mark.filterwarnings("default")
def test_onnx__classifier_on_embeddings(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = run("onnx", vit())
    assert names["embed"]("data/photo.jpg").shape == (64,)
    assert capsys.readouterr().out.strip() in ("['apple']", "['pear']")


@pytest.mark.filterwarnings("default")
def test_torchscript__embedding(data: Path) -> None:
    assert run("torchscript", vit())["embedding"].shape == (1, 64)
