"""Object detection: Faster R-CNN on a backbone, judged by COCO's mean average precision."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from lightning.pytorch import Trainer

from datamodules.annotated import Kind
from datamodules.dense import BoxedImages
from datamodules.dense_views import BoxedViews, dense_loader, whole_loader
from pas_train.evaluation.dense.average_precision import coco_map, require_pycocotools
from pas_train.evaluation.dense.detector import Detector, DetectorRecipe
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

LAYER_DECAY = 0.7  # of ViTDet's base model


@dataclass
class Detection(TrainedProtocol):
    """Object detection: torchvision's Faster R-CNN with a feature pyramid, trained with the whole backbone.

    The defaults are those of mmdetection's Faster R-CNN, 12 epochs, and for vision transformers ViTDet's. The paper's
    Cascade R-CNN is trained by mmdetection itself, for which `export --to mmdet` writes weights and configuration.

    Args:
        epochs: Over the training images; the rate falls to a tenth after 8 and after 11 of 12.
        batch_size: Of all devices together; all images where there are fewer.
        optimizer: sgd or adamw; null takes sgd for ResNets and adamw for vision transformers.
        lr: Peak learning rate; null takes 0.02 * batch / 16 for sgd and 0.0001 for adamw.
        weight_decay: Of weights, not of biases and norms; null takes 0.0001 for sgd and 0.1 for adamw.
        warmup_steps: In which the rate rises from near 0; at most a third of all steps.
        layer_decay: What the rate of each layer of a timm model is of that above it; null takes 0.7 for timm's vision
            transformers, else 1.
        drop_path: How often the last block is skipped, and the others less; timm's models only (ViTDet: 0.1).
        frozen_stages: The stem and so many stages of a ResNet are not trained, 0 for none; null takes 1 for ResNets and
            0 for vision transformers.
        frozen_norms: Batch norms of the backbone keep the statistics of the pretraining; small batches give bad ones.
        short_side: Images are resized to it, in pixels, with their aspect kept.
        longest_side: But the long side is at most so long.
        anchor_scale: Sides of the anchors in strides of the maps: 8 has anchors of 32 to 512 pixels.
        channels: Of the pyramid's maps; the head behind them is four times as wide.
        proposals: Regions of an image that are looked at.
        samples: Of these in training.
        clip: Greatest norm of the gradients; null for any.
        seeds: One training each; the figures are the mean.
    """

    of: ClassVar[Kind] = "boxes"
    key: ClassVar[str] = "detection"
    main: ClassVar[tuple[str, str]] = ("map", "mAP")

    epochs: int = 12
    batch_size: int = 16
    optimizer: Literal["sgd", "adamw"] | None = None
    lr: float | None = None
    weight_decay: float | None = None
    warmup_steps: int = 500
    layer_decay: float | None = None
    drop_path: float = 0.0
    frozen_stages: int | None = None
    frozen_norms: bool = True
    short_side: int = 800
    longest_side: int = 1333
    anchor_scale: float = 8.0
    channels: int = 256
    proposals: int = 1000
    samples: int = 512
    clip: float | None = None
    seeds: list[int] = field(default_factory=lambda: [0])

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "short_side", "channels", "proposals", "samples"):
            self.check(name, getattr(self, name) >= 1, "must be at least 1")
        for name in ("lr", "weight_decay", "warmup_steps"):
            value = getattr(self, name)
            self.check(name, value is None or 0 <= value < math.inf, "must not be negative")
        for name in ("anchor_scale", "clip"):
            value = getattr(self, name)
            self.check(name, value is None or 0 < value < math.inf, "must be above 0")
        self.check("longest_side", self.longest_side >= self.short_side, f"must be at least {self.short_side}")
        self.check("layer_decay", self.layer_decay is None or 0 < self.layer_decay <= 1, "must be above 0, at most 1")
        self.check("drop_path", 0 <= self.drop_path < 1, "must be at least 0 and below 1")
        self.check("frozen_stages", self.frozen_stages in (None, 0, 1, 2, 3, 4), "must be 0 to 4, or null")
        self.check_seeds()

    def judge(self, subject: Subject) -> dict[str, Figures]:
        """`map`, `map50` and `map75` of the test images, once it is known that they can be counted."""
        if subject.backbone is not None:
            require_pycocotools()
        return super().judge(subject)

    def recipe(self, subject: Subject, seed: int) -> DetectorRecipe:
        """What is done with this backbone: the settings, and what they leave open. Raises ValueError naming one."""
        optimizer = self.optimizer or ("adamw" if subject.transformer else "sgd")
        batch = min(self.batch_size, len(subject.train))
        decays = subject.transformer and hasattr(subject.backbone, "group_matcher")
        frozen = self.frozen_stages if self.frozen_stages is not None else 0 if subject.transformer else 1
        if frozen and subject.transformer:
            raise ValueError(
                f"evaluation.detection.frozen_stages is {frozen}, but {subject.title or 'the backbone'} is a vision "
                "transformer, which has no stages; leave it at null, or set it to 0"
            )
        settled = asdict(self) | {
            "optimizer": optimizer,
            "lr": self.lr if self.lr is not None else 1e-4 if optimizer == "adamw" else 0.02 * batch / 16,
            "weight_decay": self.weight_decay if self.weight_decay is not None else _decay(optimizer),
            "layer_decay": self.layer_decay if self.layer_decay is not None else LAYER_DECAY if decays else 1.0,
            "frozen_stages": frozen,
            "seed": seed,
        }
        return DetectorRecipe(**{name: value for name, value in settled.items() if name not in ("clip", "seeds")})

    def training(self, subject: Subject, folder: Path) -> Training:
        """Where it is, and how long. folder: of the checkpoints."""
        return Training(self.key, subject.trainer, folder, subject.progress, epochs=self.epochs, clip=self.clip)

    def depends(self, subject: Subject) -> list[Any]:
        """How the gradients are clipped, which the recipe does not hold."""
        return [self.clip]

    def found(self, subject: Subject, recipe: DetectorRecipe, training: Training) -> Figures:
        """`map`, `map50` and `map75` of the test images."""
        test = _boxed(subject.test)
        return coco_map(test.boxes, find_boxes(subject, recipe, training), test.classes, test.crowds)


def find_boxes(subject: Subject, recipe: DetectorRecipe, training: Training) -> list[np.ndarray]:
    """Trains a detector and returns what it finds in the test images, [D, 6] each, in their order, on all ranks."""
    trainer, module = train_detector(subject, recipe, training)
    sides = (recipe.short_side, recipe.longest_side)
    loader = whole_loader(_boxed(subject.test), *sides, trainer, subject.num_workers)
    with quietly():
        predicted: Any = trainer.predict(module, loader)
    rows = dict(pair for part in gathered(predicted) for pair in part)  # an image that two ranks had is the same
    return [rows[row] for row in range(len(subject.test))]


def train_detector(subject: Subject, recipe: DetectorRecipe, training: Training) -> tuple[Trainer, Detector]:
    """Trains a detector, on all ranks. Raises ValueError naming the settings."""
    trainer = new_trainer(training)
    images = _boxed(subject.train)
    batch_size = shared_batch(training.key, recipe.batch_size, len(images), trainer.world_size, subject.name)
    module = Detector(subject, recipe)
    views = BoxedViews(images, (recipe.short_side, recipe.longest_side), recipe.seed)
    loader = dense_loader(views, batch_size, recipe.seed, trainer, subject.num_workers)
    about = (
        f"{training.length} of {len(images):,} images, {subject.classes} classes, {recipe.optimizer} {recipe.lr:g}, "
        f"batches of {batch_size}"
    )
    fit_module(trainer, module, loader, training, about)
    return trainer, module


def _boxed(images: Any) -> BoxedImages:
    assert isinstance(images, BoxedImages)  # the judging sees to it
    return images


def _decay(optimizer: str) -> float:
    return 0.1 if optimizer == "adamw" else 1e-4
