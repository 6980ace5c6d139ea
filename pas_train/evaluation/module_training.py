"""Trains a protocol's module by a Trainer of its own, on all ranks: goes on after a kill, and is not done twice."""

import logging
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.utils.data import DataLoader

from datamodules.files import read_json, write_json
from pas_train.checkpoint_io import AtomicCheckpointIO
from pas_train.checkpointing import Checkpoints
from pas_train.checkpoints import newest_good
from pas_train.evaluation.protocol import Figures
from pas_train.stopping import StopSignals
from pas_train.throughput import clock

CHECKPOINT_MINUTES = 10.0
LINE_S = 20.0  # between two lines of progress at least
SAME_FOR_ALL = ("accelerator", "devices", "num_nodes", "precision")  # of the yaml's trainer


@dataclass(frozen=True)
class Training:
    """What a training of a protocol is, whatever it trains.

    key: the section below `evaluation`. section: the yaml's trainer, whose devices are used. folder: of the
    checkpoints that it goes on from after a kill. progress: how its lines call it, such as the data set. epochs, steps:
    its length, one of the two. clip: greatest norm of the gradients. sharded: whether the module cuts itself into
    shards where the yaml's strategy is fsdp2; others train by ddp there.
    """

    key: str
    section: Mapping[str, Any]
    folder: Path
    progress: str
    epochs: int | None = None
    steps: int | None = None
    clip: float | None = None
    sharded: bool = False

    @property
    def length(self) -> str:
        """As people say it."""
        count, unit = (self.epochs, "epoch") if self.steps is None else (self.steps, "step")
        return f"{count:,} {unit}{'' if count == 1 else 's'}"

    def of_seed(self, seed: int, seeds: Sequence[int]) -> "Training":
        """The same, whose lines tell the seed where there are several."""
        return replace(self, progress=f"{self.progress}, seed {seed}") if len(seeds) > 1 else self

    def say(self, line: str) -> None:
        """Tells the person, once."""
        _say(f"{self.key:<13} {self.progress}: {line}")


def new_trainer(training: Training) -> Trainer:
    """A Trainer on the same devices as the yaml's, without files of its own but checkpoints."""
    options = {name: training.section[name] for name in SAME_FOR_ALL if training.section.get(name) is not None}
    strategy = training.section.get("strategy")
    named = strategy.get("class_path") if isinstance(strategy, Mapping) else strategy
    shards = named == "fsdp2" or "FullyShardedStrategy" in (str(named), type(named).__name__)
    with quietly():
        trainer = Trainer(
            **options,
            strategy="fsdp2" if shards and training.sharded else "auto",
            max_epochs=-1 if training.epochs is None else training.epochs,
            max_steps=-1 if training.steps is None else training.steps,
            gradient_clip_val=training.clip,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            callbacks=[
                Checkpoints(CHECKPOINT_MINUTES, every_n_epochs=0, keep=1, dirpath=str(training.folder)),
                _Progress(training),
            ],
        )
    if not isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO):
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
    return trainer


def fit_module(trainer: Trainer, module: LightningModule, loader: DataLoader, training: Training, about: str) -> None:
    """Trains, on all ranks, from the newest good checkpoint in the training's folder.

    trainer: of `new_trainer`. loader: whose batches go on at the trainer's step, as `crop_loader`'s do; each has
    "index". about: what the first line says of the training.
    """
    start = newest_good(training.folder) if training.folder.is_dir() else None
    training.say(f"{about}{f', goes on from {start}' if start else ''}")
    with StopSignals() as signals, quietly(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found .* in eval mode")  # a frozen backbone
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, Checkpoints):
                callback.signals = signals
        trainer.fit(module, loader, ckpt_path=start, weights_only=False)


def once(training: Training, kept: Path, work: Callable[[], Figures], short: Callable[[Figures], str]) -> Figures:
    """The figures of a training, kept in a file: what is finished is not done again.

    All ranks must call it. work: trains and judges. short: what the line at the end says of the figures.
    """
    known: Figures | None = agreed(read_json(kept))
    if known is not None:
        training.say(f"{short(known)}, finished before: {kept}")
        return known
    begin = time.monotonic()
    told = work()
    _keep(kept, told, training.folder)
    training.say(f"{short(told)}, in {clock(time.monotonic() - begin)}")
    return told


def shared_batch(key: str, batch_size: int, images: int, world_size: int, data_set: str, pairs: bool = False) -> int:
    """The batch size, or all images where there are fewer: what ranks share evenly, and in pairs where images mix.

    key: of the section, for messages. Raises ValueError naming the settings.
    """
    unit = world_size * (2 if pairs else 1)
    if batch_size % unit:
        mixed = ", with an even number on each as images are mixed in pairs" if unit > world_size else ""
        raise ValueError(
            f"evaluation.{key}.batch_size {batch_size} cannot be shared among {world_size} devices"
            f"{mixed}; make it a multiple of {unit}"
        )
    if images < unit:
        raise ValueError(
            f"evaluation.datasets: '{data_set}' has {images} training images, too few for evaluation.{key} on "
            f"{world_size} devices, which needs {unit}"
        )
    return min(batch_size, images - images % unit)


def agreed(value: Any) -> Any:
    """What rank 0 found: all ranks do the same, whatever their disks show them."""
    if not dist.is_available() or not dist.is_initialized():
        return value
    told = [value]
    dist.broadcast_object_list(told)
    return told[0]


def gathered(part: Any) -> list[Any]:
    """What each rank found, in their order, on all ranks."""
    parts = [part]
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        parts = [None] * dist.get_world_size()
        dist.all_gather_object(parts, part)
    return parts


@contextmanager
def quietly() -> Iterator[None]:
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


class _Progress(Callback):
    """A line every LINE_S seconds."""

    def __init__(self, training: Training) -> None:
        self.training = training
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
        images = rate * len(batch["index"]) * trainer.world_size
        whole = self.training.steps or batches * (self.training.epochs or 0)
        place = f"step {step:,} of {whole:,}"
        if self.training.steps is None:
            place = f"epoch {step / batches:.1f} of {self.training.epochs}"
        _say(
            f"{self.training.key:<13} {self.training.progress}: {place}, loss {float(outputs['loss']):.3f}, "
            f"{images:,.0f} images/s, {clock((whole - step) / rate)} left"
        )
        self.at, self.steps = now, step


@rank_zero_only
def _keep(path: Path, value: Any, folder: Path) -> None:
    """Writes a result; what its training could have gone on from is not needed any more."""
    write_json(path, value)
    shutil.rmtree(folder, ignore_errors=True)


@rank_zero_only
def _say(line: str) -> None:
    print(line, flush=True)
