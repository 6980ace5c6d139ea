import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from datamodules.labelled import LabelledDataset, read_labelled
from pas_train.evaluation.features import PIXEL_SIDE, Embedder, Transform, embed_parts

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
CPU = torch.device("cpu")


class Images(Dataset):
    """Seven random images."""

    def __init__(self, side: int = 4) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, (7, 3, side, side), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.pixels[index]}


def features(
    backbone: nn.Module | None, images: Dataset | None = None, batch_size: int = 128, workers: int = 0, **more: Any
) -> np.ndarray:
    transform = Transform(4, MEAN, STD, **more)
    with Embedder(backbone, transform, CPU) as embedder:
        (values,) = embed_parts(embedder, images or Images(), [np.arange(7)], batch_size, workers)
    return values


def normalised() -> np.ndarray:
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (MEAN, STD))
    return (Images().pixels / 255 - mean) / std


def test_embed_parts__of_pixels() -> None:
    found = features(None, batch_size=3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, normalised().reshape(7, -1), atol=1e-5)


def test_embed_parts__of_many_pixels_are_averaged() -> None:
    images = Images(2 * PIXEL_SIDE)
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (MEAN, STD))
    blocks = images.pixels.reshape(7, 3, PIXEL_SIDE, 2, PIXEL_SIDE, 2).mean((3, 5))
    np.testing.assert_allclose(features(None, images), ((blocks / 255 - mean) / std).reshape(7, -1), atol=1e-4)


def test_embed_parts__of_a_backbone_in_eval_mode() -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Dropout(0.5), nn.Flatten())
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with torch.no_grad():
        expected = backbone[3](backbone[0](torch.from_numpy(normalised()).float()) / (1 + 1e-5) ** 0.5).numpy()
    for size in (1, 3, 128):
        np.testing.assert_allclose(features(backbone, batch_size=size), expected, atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())


def test_embed_parts__in_bfloat16_differ_by_rounding() -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(48, 6))
    whole, rounded = features(backbone), features(backbone, precision="bf16")
    assert rounded.dtype == np.float32 and 0 < abs(whole - rounded).max() < 0.05 * abs(whole).max()


def test_embed_parts__are_of_their_rows_whatever_the_batches_and_workers() -> None:
    parts = [np.array([4, 0, 5]), np.array([1]), np.array([6, 2, 3, 3])]
    expected = features(None)
    for workers in (0, 2):
        with Embedder(None, Transform(4, MEAN, STD), CPU) as embedder:
            found = list(embed_parts(embedder, Images(), parts, 2, workers))
        assert all(np.array_equal(one, expected[rows]) for one, rows in zip(found, parts, strict=True))


class Slow(nn.Module):
    """Reads the batch long after the next ones were made."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        return x.flatten(1)


def test_embed_parts__memory_of_a_worker_is_used_again_only_after_the_batch() -> None:
    rows = np.random.default_rng(1).integers(0, 7, 60)
    with Embedder(Slow(), Transform(4, MEAN, STD), CPU) as embedder:
        (found,) = embed_parts(embedder, Images(), [rows], 2, 1)
    np.testing.assert_array_equal(found, features(None)[rows])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_embed_parts__an_image_that_cannot_be_read_is_named(tmp_path: Path, damage: str, workers: int) -> None:
    for name in "abc":
        (tmp_path / "class").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "class" / f"{name}.png")
    dataset = LabelledDataset(read_labelled(tmp_path), 4)
    bad = tmp_path / "class" / "b.png"
    bad.write_bytes(bad.read_bytes()[:40]) if damage == "cut" else bad.unlink()
    with pytest.raises(ValueError, match=r"evaluation image .*class/b.png cannot be used \(.+\); repair or remove it"):
        with Embedder(None, Transform(4, MEAN, STD), CPU) as embedder:
            list(embed_parts(embedder, dataset, [np.arange(3)], 2, workers))


@pytest.mark.parametrize("training", [True, False])
def test_embedder__leaves_the_mode_as_it_was(training: bool) -> None:
    backbone = nn.Sequential(nn.Flatten()).train(training)
    features(backbone)
    assert backbone.training is training


def test_embedder__compiles_nothing_for_its_sizes() -> None:
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        compiled.append(len(inputs))
        return graph

    backbone = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    backbone.compile(backend=backend, dynamic=False)
    features(backbone, batch_size=3)
    assert not compiled
    backbone(torch.zeros(3, 3, 4, 4))
    assert compiled  # it was compiled before, and is again
