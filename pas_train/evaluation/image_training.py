"""A classifier on a backbone, trained on the images of a labelled set by a Trainer of its own, on all ranks."""

import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from datamodules.classification import LabelledCrops, centre_loader, crop_loader
from pas_train.checkpoint_io import AtomicCheckpointIO
from pas_train.checkpointing import Checkpoints
from pas_train.checkpoints import newest_good
from pas_train.evaluation.image_classifier import ImageClassifier, Recipe
from pas_train.evaluation.protocol import Subject
from pas_train.stopping import StopSignals
from pas_train.throughput import clock

CHECKPOINT_MINUTES = 10.0
LINE_S = 20.0  # between two lines of progress at least
SAME_FOR_ALL = ("accelerator", "devices", "num_nodes", "precision")  # of the yaml's trainer


def rank_images(subject: Subject, recipe: Recipe, folder: Path) -> np.ndarray:
    """Trains a classifier and returns the best classes of the test images, int64 [T, <= 5], on all ranks."""
    trainer, module = train_classifier(subject, recipe, folder)
    test = centre_loader(subject.test, subject.image_size, subject.batch_size, trainer, subject.num_workers)
    with _quietly():
        predicted: Any = trainer.predict(module, test)
    return _gathered(predicted, len(subject.test))


def train_classifier(subject: Subject, recipe: Recipe, folder: Path) -> tuple[Trainer, ImageClassifier]:
    """Trains a classifier, on all ranks.

    folder: of the checkpoints that a training goes on from after a kill. Raises ValueError naming the settings.
    """
    with _quietly():
        trainer = _trainer(subject.trainer, recipe, folder, subject.name)
    batch_size = _batch_size(recipe, len(subject.train), trainer.world_size, subject.name)
    module = ImageClassifier(subject, recipe)
    crops = LabelledCrops(subject.train, subject.image_size, recipe.crop_min, recipe.seed)
    loader = crop_loader(crops, batch_size, recipe.seed, trainer, subject.num_workers)
    start = newest_good(folder) if folder.is_dir() else None
    _say(
        f"{recipe.key:<13} {subject.progress}: {recipe.epochs} epoch{'s' if recipe.epochs > 1 else ''} of "
        f"{len(subject.train):,} images, {subject.classes} classes, {recipe.optimizer} {recipe.lr:g}, batches of "
        f"{batch_size}{f', goes on from {start}' if start else ''}"
    )
    with StopSignals() as signals, _quietly(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found .* in eval mode")  # a frozen backbone
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, Checkpoints):
                callback.signals = signals
        trainer.fit(module, loader, ckpt_path=start, weights_only=False)
    return trainer, module


def _trainer(section: Mapping[str, Any], recipe: Recipe, folder: Path, data_set: str) -> Trainer:
    """A Trainer on the same devices as the yaml's, without files of its own but checkpoints."""
    options = {name: section[name] for name in SAME_FOR_ALL if section.get(name) is not None}
    strategy = section.get("strategy")
    named = strategy.get("class_path") if isinstance(strategy, Mapping) else strategy
    sharded = named == "fsdp2" or "FullyShardedStrategy" in (str(named), type(named).__name__)
    trainer = Trainer(
        **options,
        strategy="fsdp2" if sharded else "auto",
        max_epochs=recipe.epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        callbacks=[
            Checkpoints(CHECKPOINT_MINUTES, every_n_epochs=0, keep=1, dirpath=str(folder)),
            _Progress(recipe, data_set),
        ],
    )
    if not isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO):
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
    return trainer


def _batch_size(recipe: Recipe, images: int, world_size: int, data_set: str) -> int:
    """The recipe's, or all images where there are fewer; shared evenly among ranks, and in pairs where images mix."""
    unit = world_size * (2 if recipe.mixup or recipe.cutmix else 1)
    if recipe.batch_size % unit:
        pairs = ", with an even number on each as images are mixed in pairs" if unit > world_size else ""
        raise ValueError(
            f"evaluation.{recipe.key}.batch_size {recipe.batch_size} cannot be shared among {world_size} devices"
            f"{pairs}; make it a multiple of {unit}"
        )
    if images < unit:
        raise ValueError(
            f"evaluation.datasets: '{data_set}' has {images} training images, too few for evaluation.{recipe.key} on "
            f"{world_size} devices, which needs {unit}"
        )
    return min(recipe.batch_size, images - images % unit)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without Lightning's lines on devices, and on the end of the epochs."""
    loggers = [logging.getLogger(f"lightning.pytorch.{name}") for name in ("utilities.rank_zero", "accelerators.cuda")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _gathered(predicted: list[tuple[np.ndarray, np.ndarray]], images: int) -> np.ndarray:
    """The classes of all ranks' images in their order."""
    parts = [predicted]
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        parts = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(parts, predicted)
    rows, ranked = (np.concatenate(column) for column in zip(*(pair for part in parts for pair in part), strict=True))
    classes = np.empty((images, ranked.shape[1]), np.int64)
    classes[rows] = ranked  # an image that two ranks had is the same in both
    return classes


class _Progress(Callback):
    """A line every LINE_S seconds."""

    def __init__(self, recipe: Recipe, data_set: str) -> None:
        self.recipe, self.data_set = recipe, data_set
        self.at, self.steps = 0.0, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The clock begins."""
        self.at, self.steps = time.monotonic(), trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Says where the training is, how fast it goes, and how long it takes."""
        now = time.monotonic()
        if now - self.at < LINE_S or not trainer.is_global_zero:
            return
        step, batches = trainer.global_step, int(trainer.num_training_batches)
        rate = (step - self.steps) / (now - self.at)
        images = rate * len(batch["label"]) * trainer.world_size
        left = (batches * self.recipe.epochs - step) / rate
        print(
            f"{self.recipe.key:<13} {self.data_set}: epoch {step / batches:.1f} of {self.recipe.epochs}, loss "
            f"{float(outputs['loss']):.3f}, {images:,.0f} images/s, {clock(left)} left",
            flush=True,
        )
        self.at, self.steps = now, step


@rank_zero_only
def _say(line: str) -> None:
    print(line, flush=True)
