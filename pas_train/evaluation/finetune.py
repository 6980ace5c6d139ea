"""Protocols that train on augmented images: fine-tuning, and a linear layer on a frozen backbone."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pas_train.evaluation.image_classifier import Recipe
from pas_train.evaluation.image_training import rank_images
from pas_train.evaluation.metrics import figures, over_seeds
from pas_train.evaluation.module_training import Training
from pas_train.evaluation.protocol import Figures, Subject
from pas_train.evaluation.trained_protocol import TrainedProtocol


@dataclass
class ImageTraining(TrainedProtocol):
    """A classifier trained on random crops that are mirrored half of the time, and judged on centre crops.

    Args:
        epochs: Over the training images (paper: 100).
        batch_size: Of all devices together; all images where there are fewer.
        optimizer: sgd, whose rate falls to a tenth at 60 % and at 80 % of the epochs, or adamw with a cosine to 0; null
            takes sgd for ResNets and adamw for vision transformers (paper).
        lr: Peak learning rate; null takes 0.3 * batch / 256 for sgd and 0.001 for adamw.
        weight_decay: Of weights, not of biases and norms; null takes 0, and 0.05 for fine-tuning with adamw.
        warmup_epochs: In which the rate rises from 0.
        crop_min: Smallest share of an image's area in a crop.
        seeds: One training each; the figures are the mean.
    """

    main: ClassVar[tuple[str, str]] = ("top1", "top-1")
    frozen: ClassVar[bool]

    epochs: int = 100
    batch_size: int = 256
    optimizer: Literal["sgd", "adamw"] | None = None
    lr: float | None = None
    weight_decay: float | None = None
    warmup_epochs: float = 0.0
    crop_min: float = 0.08
    seeds: list[int] = field(default_factory=lambda: [0])

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            self.check(name, getattr(self, name) >= 1, "must be at least 1")
        for name in ("lr", "weight_decay", "warmup_epochs"):
            value = getattr(self, name)
            self.check(name, value is None or 0 <= value < math.inf, "must not be negative")
        self.check("crop_min", 0 < self.crop_min <= 1, "must be above 0 and at most 1")
        self.check_seeds()

    def over_seeds(self, parts: list[Figures], subject: Subject) -> Figures:
        """Means, with an interval over the test images."""
        return over_seeds(parts, len(subject.test))

    def recipe(self, subject: Subject, seed: int) -> Recipe:
        """What is done with this backbone: the settings, and what they leave open."""
        optimizer = self.optimizer or ("adamw" if subject.transformer else "sgd")
        batch = min(self.batch_size, len(subject.train))
        lr = self.lr if self.lr is not None else 0.3 * batch / 256 if optimizer == "sgd" else 1e-3
        decays = optimizer == "adamw" and not self.frozen
        weight_decay = self.weight_decay if self.weight_decay is not None else 0.05 if decays else 0.0
        return Recipe(
            self.key, self.frozen, self.epochs, self.batch_size, optimizer, lr, weight_decay, self.warmup_epochs,
            self.crop_min, seed, **self.more(),
        )  # fmt: skip

    def more(self) -> dict[str, Any]:
        """What only one of the protocols has."""
        return {}

    def depends(self, subject: Subject) -> list[Any]:
        """The side of the crops and of the test images."""
        return [subject.image_size]

    def training(self, subject: Subject, folder: Path) -> Training:
        """Where it is, and how long. folder: of the checkpoints."""
        return Training(self.key, subject.trainer, folder, subject.progress, epochs=self.epochs, sharded=True)

    def found(self, subject: Subject, recipe: Recipe, training: Training) -> Figures:
        """Top-1, top-5 and mean per class of the test images."""
        return figures(rank_images(subject, recipe, training), subject.labelled[1].labels)


@dataclass
class Finetune(ImageTraining):
    """Fine-tuning: backbone and linear layer are trained together, also what the pretraining left frozen.

    Args:
        label_smoothing: Share of the target that goes to all classes.
        mixup: Strength of timm's mixup, images of a device's share of the batch over one another; 0 for none.
        cutmix: Strength of timm's cutmix, likewise.
        drop_path: How often the last block is skipped, and the others less; timm's models only.
    """

    key: ClassVar[str] = "finetune"
    frozen: ClassVar[bool] = False

    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("label_smoothing", "drop_path"):
            self.check(name, 0 <= getattr(self, name) < 1, "must be at least 0 and below 1")
        for name in ("mixup", "cutmix"):
            self.check(name, 0 <= getattr(self, name) < math.inf, "must not be negative")

    def more(self) -> dict[str, Any]:
        """Regularisation."""
        return {name: getattr(self, name) for name in ("label_smoothing", "mixup", "cutmix", "drop_path")}


@dataclass
class LinearImages(ImageTraining):
    """Linear layer on a frozen backbone that sees augmented images, as the papers have it; `linear` sees features.

    Args:
        standardise: Embeddings are brought to mean 0 and variance 1 first, so that one rate fits every backbone.
    """

    key: ClassVar[str] = "linear_images"
    frozen: ClassVar[bool] = True

    standardise: bool = True

    def more(self) -> dict[str, Any]:
        """What is between backbone and layer."""
        return {"standardise": self.standardise}
