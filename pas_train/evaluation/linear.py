"""Linear probe on frozen features."""

import math
import time
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from datamodules.files import read_json, write_json
from datamodules.progress import Progress
from pas_train.evaluation.linear_layers import SAVE_SECONDS, LinearLayers, Rows, Schedule
from pas_train.evaluation.metrics import best_classes, figures, over_seeds
from pas_train.evaluation.protocol import Figures, Protocol, Subject


@dataclass
class Linear(Protocol):
    """Linear layer on frozen features, without augmentation.

    SGD, whose rate falls to a tenth at 60 % and at 80 % of the epochs, for ResNets; AdamW with a cosine to 0 for vision
    transformers (paper).

    Args:
        epochs: Over the training images (paper: 100).
        batch_size: All images where there are fewer.
        lr: Learning rate; null takes 0.3 * batch / 256 for SGD, less for more than 512 dimensions, and 0.001 for AdamW.
        weight_decay: The optimiser's.
        seeds: Of weights and order, one training each; the figures are the mean.
        standardise: Moves features to mean 0 and scales them to unit variance over all of them, by the training images,
            so that one rate fits every backbone.
        rates: Learning rates that are trained side by side instead of lr. The one that is most often right on images
            that are held out of training is judged, as it was trained; test images have no say in it. null: lr alone.
        held_out: Share of the training images that choose among the rates.
    """

    epochs: int = 100
    batch_size: int = 256
    lr: float | None = None
    weight_decay: float = 0.0
    seeds: list[int] = field(default_factory=lambda: [0])
    standardise: bool = True
    rates: list[float] | None = None
    held_out: float = 0.1

    def __post_init__(self) -> None:
        """Raises ValueError for settings that mean nothing."""
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"evaluation.linear.{name} must be at least 1, got {getattr(self, name)}")
        rates = [] if self.lr is None else [self.lr]
        if not all(0 < rate < math.inf for rate in rates):
            raise ValueError(f"evaluation.linear.lr must be positive, got {self.lr}")
        if self.weight_decay < 0:
            raise ValueError(f"evaluation.linear.weight_decay must not be negative, got {self.weight_decay}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"evaluation.linear.seeds must be one or more different numbers, got {self.seeds}")
        if self.rates is not None:
            if not self.rates or not all(0 < rate < math.inf for rate in self.rates):
                raise ValueError(f"evaluation.linear.rates must be positive numbers, or null, got {self.rates}")
            if self.lr is not None:
                raise ValueError("evaluation.linear has both lr and rates: leave one of them null")
        if not 0 < self.held_out < 1:
            raise ValueError(f"evaluation.linear.held_out must be a share between 0 and 1, got {self.held_out}")

    def names(self) -> list[str]:
        """One figure."""
        return ["linear"]

    def described(self) -> dict[str, dict[str, Any]]:
        """All settings; held_out where it has a say."""
        settings = super().described()["linear"]
        if self.rates is None:
            del settings["held_out"]
        return {"linear": settings}

    def judge(self, subject: Subject) -> dict[str, Figures]:
        """Of the test images; the mean over the seeds. With rates also `rate`, the one chosen by each seed."""
        train, test = subject.sound_features()
        rows = Rows(train.values, subject.device, None, self.standardise)
        tested = Rows(test.values, subject.device, rows.scale)
        parts = [self._judge_seed(seed, subject, rows, train.labels, tested, test.labels) for seed in self.seeds]
        told = over_seeds(parts, len(test.labels))
        if self.rates is not None:
            told["rate"] = [part["rate"] for part in parts]
        return {"linear": told}

    def _judge_seed(
        self, seed: int, subject: Subject, rows: Rows, labels: np.ndarray, tested: Rows, answers: np.ndarray
    ) -> Figures:
        """Figures of one training; those of an earlier run that was killed after it are read."""
        finished, state = (subject.folder / f"linear-{seed}.{ending}" for ending in ("json", "pt"))
        known = read_json(finished)
        if known is not None:
            return known
        begun = time.monotonic()
        kind: Literal["sgd", "adamw"] = "adamw" if subject.transformer else "sgd"
        order = np.random.default_rng(seed).permutation(len(labels))
        held = order[: max(1, round(self.held_out * len(labels)))] if self.rates is not None else order[:0]
        kept = np.sort(order[len(held) :])
        schedule = Schedule(kind, self.epochs, min(self.batch_size, max(1, len(kept))), self.weight_decay)
        rates = self.rates or [self.lr or default_rate(kind, schedule.batch_size, rows.dim)]
        layers = LinearLayers(rows.dim, subject.classes, rates, seed, subject.device)
        bar = Progress(f"linear {subject.progress}", self.epochs, unit="epoch")
        try:
            layers.train(rows, labels, kept, schedule, state, bar.reach)
        finally:
            bar.close()
        best = _chosen(layers, rows, labels, np.sort(held)) if len(rates) > 1 else 0
        with torch.inference_mode():
            ranked = np.concatenate([best_classes(layers.scores(block)[:, best]) for block in tested])
        if (ranked < 0).all():
            print(
                f"{'evaluation':<12}'{subject.name}': the linear layer diverged at a learning rate of {rates[best]:g} "
                f"and is never right: give a smaller evaluation.linear.{'lr' if self.rates is None else 'rates'}",
                flush=True,
            )
        told = figures(ranked, answers) | ({"rate": rates[best]} if self.rates is not None else {})
        if len(self.seeds) > 1 and time.monotonic() - begun > SAVE_SECONDS:
            write_json(finished, told)
        state.unlink(missing_ok=True)
        return told


def default_rate(kind: Literal["sgd", "adamw"], batch_size: int, dim: int) -> float:
    """Open in the paper: 0.3 per 256 images (sgd) or 0.001 (adamw)."""
    if kind == "adamw":
        return 1e-3
    # One rate for a thousand dimensions diverges where features are few images of many pixels.
    return 0.3 * batch_size / 256 / max(1.0, math.sqrt(dim / 512))


def _chosen(layers: LinearLayers, rows: Rows, labels: np.ndarray, held: np.ndarray) -> int:
    """The layer that is most often right on the rows that were held out; of equal ones the one of least loss."""
    device = rows.device
    places, answers = torch.from_numpy(held).to(device), torch.from_numpy(labels).to(device)
    right = torch.zeros(layers.weights.shape[1], dtype=torch.float64, device=device)
    losses = torch.zeros_like(right)
    with torch.inference_mode():
        for part in places.split(1024):
            scores, wanted = layers.scores(rows[part]), answers[part]
            lost = scores.isnan().any(dim=2)
            right += ((scores.argmax(dim=2) == wanted[:, None]) & ~lost).sum(dim=0)
            told = F.cross_entropy(scores.transpose(1, 2), wanted[:, None].expand(lost.shape), reduction="none")
            losses += told.double().sum(dim=0)
    losses = losses.nan_to_num(torch.inf)
    return min(range(len(right)), key=lambda one: (-float(right[one]), float(losses[one])))
