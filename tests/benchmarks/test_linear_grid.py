"""Ten learning rates of a linear layer trained side by side, beside one; `pytest -m benchmark -s` shows figures."""

import time
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch

from pas_train.backbones import build_backbone
from pas_train.evaluation.linear import Linear
from tests.pas_train.evaluation.made import Transformer, made_subject

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(600)]

TRAIN, TEST, WIDTH, CLASSES, EPOCHS = 5000, 1000, 384, 101, 4
RATES = [0.0001 * 2**step for step in range(10)]


def cpu_seconds(protocol: Linear, subject: Any) -> float:
    began = time.process_time()
    protocol.judge(subject)
    return time.process_time() - began


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_judge__ten_rates_beside_one(kind: str) -> None:
    rng = np.random.default_rng(0)
    train, test = (
        (rng.standard_normal((count, WIDTH), dtype=np.float32), rng.integers(0, CLASSES, count))
        for count in (TRAIN, TEST)
    )
    subject = made_subject(train, test, backbone=Transformer() if kind == "adamw" else None)
    one, ten = Linear(EPOCHS, rates=RATES[:1]), Linear(EPOCHS, rates=RATES)
    alone, side_by_side, apart = [], [], []
    for _ in range(3):
        alone.append(cpu_seconds(one, subject))
        side_by_side.append(cpu_seconds(ten, subject))
        apart.append(sum(cpu_seconds(Linear(EPOCHS, rates=[rate]), subject) for rate in RATES[:3]) / 3 * 10)
    ratio = median(b / a for a, b in zip(alone, side_by_side, strict=True))
    saved = median(b / a for a, b in zip(side_by_side, apart, strict=True))
    whole = 100 / EPOCHS
    told = f"ten cost {ratio:.2f} of one, apart {saved:.1f} times as much"
    print(f"\n{kind}, {TRAIN} x {WIDTH}, {CLASSES} classes, training alone: {told}")
    extraction = seconds_of_extraction()
    share = (extraction + whole * median(side_by_side)) / (extraction + whole * median(alone))
    print(f"100 epochs with the features of a ViT-S/16 at 224 px ({extraction:.0f} s, decoding left out): {share:.2f}")
    assert share <= 1.5
    assert saved >= 1.2


def seconds_of_extraction() -> float:
    """Processor seconds of the backbone on all images, from a few."""
    backbone = build_backbone("vit_small_patch16_224", 224).eval()
    images = torch.randn(8, 3, 224, 224)
    with torch.inference_mode():
        backbone(images)
        began = time.process_time()
        backbone(images)
    return (time.process_time() - began) / 8 * (TRAIN + TEST)
