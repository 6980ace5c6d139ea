"""Extraction of features beside its two halves alone: `pytest -m benchmark -s` shows figures.

One loader process decodes, one process with one thread embeds. The wall clock of a shared machine says little, so that
each process is measured by its own CPU time: with a core for each, the slower of the two sets the pace, in the
extraction (parts on the disk included) as alone. Alone means side by side without exchanging anything. Wall clocks are
shown; on a quiet machine of two cores they say the same. PAS_IMAGES sets the number of images.
"""

import os
import statistics
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from datamodules.labelled import LabelledDataset, LabelledImages, read_labelled
from pas_train.evaluation.feature_cache import extract, stored
from pas_train.evaluation.features import Embedder, Transform
from pas_train.ranks import Meeting
from tests.benchmarks.photos import photo
from tests.benchmarks.processes import measured, run_beside

IMAGES, BATCH, TURNS, BOUND = int(os.environ.get("PAS_IMAGES", "512")), 64, 5, 0.9
TRANSFORM = Transform(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    """Of ImageNet's kind: 500 x 375 px, 105 kB."""
    folder = tmp_path_factory.mktemp("photos")
    photos = [photo(number) for number in range(32)]
    (folder / "a").mkdir()
    for number in range(IMAGES):
        (folder / "a" / f"{number:05d}.jpg").write_bytes(photos[number % len(photos)])
    return read_labelled(folder)


def backbone(name: str) -> nn.Module:
    import timm

    torch.manual_seed(0)
    if name == "patches":
        return nn.Sequential(nn.Conv2d(3, 16, 16, stride=16), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return timm.create_model(name, num_classes=0)


@pytest.mark.benchmark
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "share"), [("patches", 1.0), ("test_vit", 1.0), ("vit_tiny_patch16_224", 0.25)],
    ids=["slow decode", "alike", "slow model"],
)  # fmt: skip
def test_extract__as_fast_as_the_slower_of_decode_and_model(
    images: LabelledImages, tmp_path: Path, name: str, share: float
) -> None:
    torch.set_num_threads(1)
    count = int(IMAGES * share)
    some = LabelledImages(images.source, images.labels[:count], images.classes)
    model, dataset = backbone(name), LabelledDataset(some, 224)
    batch = torch.randint(0, 256, (BATCH, 3, 224, 224), dtype=torch.uint8)

    def decode() -> None:
        memory = np.empty((BATCH, 3, 224, 224), np.uint8)
        for row in range(count):
            memory[row % BATCH] = dataset[row]["image"]

    def embed() -> None:
        with Embedder(model, TRANSFORM, CPU) as embedder:
            for _ in range(count // BATCH):
                embedder(batch)

    def whole(number: int) -> None:
        store = stored(tmp_path / str(number), name, name, "photos", some, TRANSFORM)
        extract([(store, some)], model, TRANSFORM, CPU, BATCH, 1, Meeting(), "features")
        assert store.whole

    decode()
    embed()
    turns = [
        (measured(partial(run_beside, decode, embed)), measured(partial(whole, number))) for number in range(TURNS)
    ]
    ratios = [max(alone[:2]) / max(together[:2]) for alone, together in turns]
    halves, parts = (np.median([turn[one] for turn in turns], axis=0) / count * 1000 for one in (0, 1))
    ratio, wall = statistics.median(ratios), statistics.median(alone[2] / together[2] for alone, together in turns)
    print(
        f"\n{name}, ms an image: decode alone {halves[0]:.2f}, model alone {halves[1]:.2f}, in the extraction "
        f"{parts[0]:.2f} and {parts[1]:.2f}: {ratio:.0%} of the slower ({min(ratios):.0%} to {max(ratios):.0%}); wall "
        f"{halves[2]:.2f} and {parts[2]:.2f}, {wall:.0%}"
    )
    assert ratio >= BOUND
