"""Semantic segmentation: UPerNet on a backbone, judged by the mean intersection over union."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from lightning.pytorch import Trainer

from datamodules.annotated import Kind
from datamodules.dense import MaskedImages
from datamodules.dense_views import LONGEST, MaskedCrops, dense_loader, whole_loader
from pas_train.evaluation.dense.segmenter import Segmenter, SegmenterRecipe
from pas_train.evaluation.module_training import (
    Training,
    fit_module,
    gathered,
    new_trainer,
    quietly,
    shared_batch,
)
from pas_train.evaluation.protocol import Figures, Subject
from pas_train.evaluation.trained_protocol import TrainedProtocol


@dataclass
class Segmentation(TrainedProtocol):
    """Semantic segmentation: transformers' UPerNet, trained with the whole backbone; test images are taken whole.

    The defaults are those of mmsegmentation's UPerNet, 80,000 steps on crops of 512 pixels.

    Args:
        steps: Of the training.
        batch_size: Of all devices together; all images where there are fewer.
        optimizer: sgd or adamw; null takes sgd for ResNets and adamw for vision transformers.
        lr: Peak learning rate; null takes 0.01 for sgd and 0.00006 for adamw. It falls to 0.
        weight_decay: Of weights, not of biases and norms; null takes 0.0005 for sgd and 0.01 for adamw.
        warmup_steps: In which the rate rises from 0, at most a third of all; null takes 0 for sgd and 1,500 for adamw.
        image_size: Side of the crops in pixels; test images have it as their short side.
        scale: Images are resized to image_size times a number between these before they are cropped.
        category_max: Another crop is tried where one class has a larger share of it; 1 takes the first.
        photometry: Whether brightness, contrast, saturation and hue are changed.
        channels: Of the head.
        dropout: Share of the head's maps that are left out before its last layer.
        drop_path: How often the last block is skipped, and the others less; timm's models only.
        seeds: One training each; the figures are the mean.
    """

    of: ClassVar[Kind] = "masks"
    key: ClassVar[str] = "segmentation"
    main: ClassVar[tuple[str, str]] = ("miou", "mIoU")

    steps: int = 80_000
    batch_size: int = 16
    optimizer: Literal["sgd", "adamw"] | None = None
    lr: float | None = None
    weight_decay: float | None = None
    warmup_steps: int | None = None
    image_size: int = 512
    scale: tuple[float, float] = (0.5, 2.0)
    category_max: float = 0.75
    photometry: bool = True
    channels: int = 512
    dropout: float = 0.1
    drop_path: float = 0.0
    seeds: list[int] = field(default_factory=lambda: [0])

    def __post_init__(self) -> None:
        for name in ("steps", "channels"):
            self.check(name, getattr(self, name) >= 1, "must be at least 1")
        self.check("batch_size", self.batch_size >= 2, "must be at least 2, as the head has batch norms")
        self.check("image_size", self.image_size >= 32, "must be at least 32")
        for name in ("lr", "weight_decay", "warmup_steps"):
            value = getattr(self, name)
            self.check(name, value is None or 0 <= value < math.inf, "must not be negative")
        self.check("scale", 0 < self.scale[0] <= self.scale[1] < math.inf, "must be two numbers above 0 that rise")
        self.check("category_max", 0 < self.category_max <= 1, "must be above 0 and at most 1")
        for name in ("dropout", "drop_path"):
            self.check(name, 0 <= getattr(self, name) < 1, "must be at least 0 and below 1")
        self.check_seeds()

    def recipe(self, subject: Subject, seed: int) -> SegmenterRecipe:
        """What is done with this backbone: the settings, and what they leave open."""
        optimizer = self.optimizer or ("adamw" if subject.transformer else "sgd")
        usual = {"lr": 6e-5, "weight_decay": 0.01, "warmup_steps": 1500}
        if optimizer == "sgd":
            usual = {"lr": 0.01, "weight_decay": 5e-4, "warmup_steps": 0}
        settings = {name: value for name, value in asdict(self).items() if name != "seeds"}
        left = {name: value for name, value in usual.items() if settings[name] is None}
        return SegmenterRecipe(**{**settings, **left, "optimizer": optimizer, "seed": seed})

    def training(self, subject: Subject, folder: Path) -> Training:
        """Where it is, and how long. folder: of the checkpoints."""
        return Training(self.key, subject.trainer, folder, subject.progress, steps=self.steps)

    def found(self, subject: Subject, recipe: SegmenterRecipe, training: Training) -> Figures:
        """`miou`, `macc` and `accuracy` of the test images."""
        return figures(count_pixels(subject, recipe, training))


def count_pixels(subject: Subject, recipe: SegmenterRecipe, training: Training) -> np.ndarray:
    """Trains a segmenter; the test images' pixels by their class and the one that is found, int64 [C, C].

    The same on all ranks, which share the images.
    """
    trainer, module = train_segmenter(subject, recipe, training)
    module.test_images = len(subject.test)
    short, longest = recipe.image_size, LONGEST * recipe.image_size
    loader = whole_loader(_masked(subject.test), short, longest, trainer, subject.num_workers)
    with quietly():
        trainer.predict(module, loader, return_predictions=False)
    total: np.ndarray = np.sum(gathered(module.counts), axis=0)
    return total


def train_segmenter(subject: Subject, recipe: SegmenterRecipe, training: Training) -> tuple[Trainer, Segmenter]:
    """Trains a segmenter, on all ranks. Raises ValueError naming the settings."""
    trainer = new_trainer(training)
    images = _masked(subject.train)
    batch_size = shared_batch(training.key, recipe.batch_size, len(images), trainer.world_size, subject.name)
    if batch_size < 2:
        raise ValueError(
            f"evaluation.datasets: '{subject.name}' has one training image, and evaluation.{training.key} needs two"
        )
    module = Segmenter(subject, recipe)
    fill = [round(255 * one) for one in subject.mean]
    crops = MaskedCrops(
        images, recipe.image_size, recipe.seed, recipe.scale, recipe.category_max, recipe.photometry, fill
    )
    loader = dense_loader(crops, batch_size, recipe.seed, trainer, subject.num_workers)
    about = (
        f"{training.length}, {len(images):,} images, {subject.classes} classes, {recipe.optimizer} {recipe.lr:g}, "
        f"batches of {batch_size}"
    )
    fit_module(trainer, module, loader, training, about)
    return trainer, module


def figures(counts: np.ndarray) -> Figures:
    """Shares in [0, 1] of pixels counted over the whole test set: `miou`, `macc` and `accuracy`.

    counts: int64 [C, C], by true class and by the class found. `miou` is the mean over the classes of a class's right
    pixels among those that are of it or were taken for it, `macc` the mean share of its pixels that are right, and
    `accuracy` the share of all. Classes that are nowhere are left out of the means, as mmsegmentation does.
    """
    right, true, found = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    if not true.any():
        raise ValueError("evaluation.datasets: no pixel of the test images has a class that counts")
    either = true + found - right
    return {
        "miou": float((right[either > 0] / either[either > 0]).mean()),
        "macc": float((right[true > 0] / true[true > 0]).mean()),
        "accuracy": float(right.sum() / true.sum()),
    }


def _masked(images: Any) -> MaskedImages:
    assert isinstance(images, MaskedImages)  # the judging sees to it
    return images
