"""Linear probe on frozen features."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pas_train.evaluation.protocol import Figures, Protocol, Subject


@dataclass
class Linear(Protocol):
    """Linear probe on frozen features.

    Args:
        epochs: Over the training images (paper: 100).
        seed: Of weights and order.
    """

    epochs: int = 100
    seed: int = 0

    def names(self) -> list[str]:
        """One figure."""
        return ["linear"]

    def judge(self, subject: Subject) -> dict[str, Figures]:
        """Top-1 of the test images."""
        train, test = subject.features()
        kind: Literal["sgd", "adamw"] = "adamw" if subject.transformer else "sgd"
        features = (train.values, train.labels, test.values, test.labels)
        return {"linear": {"top1": linear_probe(*features, kind, self.epochs, seed=self.seed)}}


def linear_probe(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    optimizer: Literal["sgd", "adamw"] = "sgd",
    epochs: int = 100,
    batch_size: int = 256,
    lr: float | None = None,
    seed: int = 0,
) -> float:
    """Top-1 accuracy in [0, 1] of a linear layer trained on features [N, D] and judged on [T, D].

    The paper: 100 epochs; SGD with steps of 0.1 at 60 % and 80 % for a ResNet, AdamW with a cosine for a ViT. Open in
    the paper: lr 0.3 per 256 (sgd) or 1e-3 (adamw), batch 256, no weight decay, features as they are, without
    augmentation. Features are scaled to unit variance over all of them, so that one rate fits every backbone.
    """
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.from_numpy(train).float(), torch.from_numpy(train_labels)
    centre, scale = x.mean(dim=0), x.std().clamp(min=1e-8)
    x = (x - centre) / scale
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    layer = nn.Linear(x.shape[1], classes)
    with torch.no_grad():
        layer.weight.normal_(0, 0.01, generator=generator)
        layer.bias.zero_()
    batch_size = min(batch_size, len(x))
    rate = lr if lr is not None else (0.3 * batch_size / 256 if optimizer == "sgd" else 1e-3)
    # One rate for a thousand dimensions diverges where features are few images of many pixels.
    rate = rate / max(1.0, math.sqrt(x.shape[1] / 512)) if optimizer == "sgd" else rate
    update: torch.optim.Optimizer
    if optimizer == "sgd":
        update = torch.optim.SGD(layer.parameters(), lr=rate, momentum=0.9)
    else:
        update = torch.optim.AdamW(layer.parameters(), lr=rate, weight_decay=0.0)
    for epoch in range(epochs):
        factor = 0.1 ** ((epoch >= 0.6 * epochs) + (epoch >= 0.8 * epochs))
        if optimizer == "adamw":
            factor = 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        for group in update.param_groups:
            group["lr"] = rate * factor
        for rows in torch.randperm(len(x), generator=generator).split(batch_size):
            update.zero_grad()
            F.cross_entropy(layer(x[rows]), y[rows]).backward()
            update.step()
    with torch.no_grad():
        predicted = layer((torch.from_numpy(test).float() - centre) / scale).argmax(dim=1)
    return float((predicted == torch.from_numpy(test_labels)).float().mean())
