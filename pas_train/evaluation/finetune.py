"""Protocols that train on augmented images: fine-tuning, and a linear layer on a frozen backbone."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from datamodules.files import fingerprint
from pas_train.evaluation.candidates import identity
from pas_train.evaluation.image_classifier import Recipe
from pas_train.evaluation.image_training import rank_images, training_of
from pas_train.evaluation.metrics import figures, over_seeds
from pas_train.evaluation.module_training import once
from pas_train.evaluation.protocol import Figures, Protocol, Subject


@dataclass
class ImageTraining(Protocol):
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

    on_images: ClassVar[bool] = True
    key: ClassVar[str]
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
        section = f"evaluation.{self.key}"
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{section}.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "weight_decay", "warmup_epochs"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{section}.{name} must not be negative, got {value}")
        if not 0 < self.crop_min <= 1:
            raise ValueError(f"{section}.crop_min must be above 0 and at most 1, got {self.crop_min}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"{section}.seeds must be one or more different numbers, got {self.seeds}")

    def names(self) -> list[str]:
        """One figure."""
        return [self.key]

    def judge(self, subject: Subject) -> dict[str, Figures]:
        """Top-1, top-5 and mean per class of the test images; nothing of raw pixels, which have no backbone.

        All ranks must call it. What is finished is kept in the subject's folder, and not done again.
        """
        if subject.backbone is None:
            return {}
        weights = identity(subject.backbone)
        parts = [self._judge_seed(subject, self.recipe(subject, seed), weights) for seed in self.seeds]
        return {self.key: over_seeds(parts, len(subject.test))}

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

    def _judge_seed(self, subject: Subject, recipe: Recipe, weights: str) -> Figures:
        settings = fingerprint(
            [asdict(recipe), weights, subject.train.fingerprint(), subject.test.fingerprint(), subject.image_size,
             list(subject.mean), list(subject.std), str(subject.trainer.get("precision"))]
        )  # fmt: skip
        kept = subject.folder / f"{self.key}-{settings}.json"
        training = training_of(subject, recipe, kept.with_suffix("")).of_seed(recipe.seed, self.seeds)
        return once(
            training,
            kept,
            lambda: figures(rank_images(subject, recipe, training), subject.labelled[1].labels),
            lambda found: f"top-1 {100 * found['top1']:.1f} %",
        )


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
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"evaluation.finetune.{name} must be at least 0 and below 1, got {getattr(self, name)}"
                )
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"evaluation.finetune.{name} must not be negative, got {getattr(self, name)}")

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
