"""Checkpoints that a training can always go on from: at intervals, whole or not at all, the last good ones kept."""

import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from datamodules.files import fingerprint
from pas_train import slurm
from pas_train.checkpoint_io import AtomicCheckpointIO
from pas_train.checkpoints import LAST, restart_name, restart_points
from pas_train.stopping import StopSignals

AGREED_EVERY = 10  # steps after which several ranks compare clocks and signals


class Checkpoints(ModelCheckpoint):
    """The last good checkpoints to go on from, and the best ones by a logged figure.

    The former are saved between two steps, when everything of the step before is done: its logs are on the disk and
    its validation is over. So a run that goes on does and logs exactly what it would have done and logged.
    SIGTERM and Ctrl-C save one, then end the training.

    Args:
        every_n_minutes: Time between two checkpoints; null for none.
        every_n_train_steps: Steps between two checkpoints; null for none.
        every_n_epochs: Epochs between two checkpoints; 0 for none.
        keep: How many are kept, the newest; -1 for all.
        monitor: Figure by which the best are kept besides, such as val/knn_top1; null for none.
        mode: Whether the best is the min or the max of the figure.
        save_top_k: How many of the best.
        filename: Of the best, with {epoch}, {step} and figures.
        dirpath: Folder; null for checkpoints in the folder of the run.
    """

    def __init__(
        self,
        every_n_minutes: float | None = 15.0,
        every_n_train_steps: int | None = None,
        every_n_epochs: int = 1,
        keep: int = 3,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        save_top_k: int = 1,
        filename: str = "best-{epoch}-{step}",
        dirpath: str | None = None,
    ) -> None:
        if keep < 1 and keep != -1:
            raise ValueError(f"checkpoint.keep must be at least 1, or -1 for all, got {keep}")
        for name, value in (("every_n_minutes", every_n_minutes), ("every_n_train_steps", every_n_train_steps)):
            if value is not None and value <= 0:
                raise ValueError(f"checkpoint.{name} must be positive, or null for none, got {value}")
        super().__init__(
            dirpath, filename, monitor, save_top_k=save_top_k if monitor else 0, save_last=False, mode=mode,
            every_n_epochs=1, enable_version_counter=False,
        )  # fmt: skip
        self.minutes = every_n_minutes
        self.steps = every_n_train_steps
        self.epochs = every_n_epochs
        self.keep = keep
        self.signals: StopSignals | None = None
        self._saved_step = -1
        self._saved_at = 0.0  # seconds, of the clock `time.monotonic`
        self._begun = False  # whether a batch of this process has begun
        self._epoch_done = False

    @property
    def state_key(self) -> str:
        """Without the settings, which may change when a run goes on."""
        return "Checkpoints"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over which the best ones are, where they are judged as before and still lie in the same folder."""
        same = state_dict["monitor"] == self.monitor and state_dict["dirpath"] == self.dirpath
        if same and all(Path(path).exists() for path in state_dict["best_k_models"]):
            super().load_state_dict(state_dict)

    @property
    def _asked(self) -> bool:
        """Whether somebody wants this rank to end."""
        return self.signals is not None and self.signals.asked is not None

    @property
    def newest(self) -> Path | None:
        """The newest checkpoint that a run goes on from."""
        points = restart_points(Path(self.dirpath)) if self.dirpath is not None else {}
        return points[max(points)] if points else None

    # The hooks.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lightning's, without its warning of a folder that holds the run's own checkpoints."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
            super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes where the training starts."""
        super().on_train_start(trainer, pl_module)
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
        self._begun = self._epoch_done = False
        if trainer.is_global_zero and self.dirpath is not None:
            for path in Path(self.dirpath).glob(".*.ckpt.*.tmp"):  # a kill in the middle of writing left it
                path.unlink(missing_ok=True)
        if self.signals is not None:
            self.signals.begin()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Saves where one is due, and ends the training where somebody wants it to."""
        step = trainer.global_step
        if not self._begun:
            # Lightning counts logged steps by itself, and after some restarts one too many.
            trainer.fit_loop.epoch_loop._batches_that_stepped = step
            self._begun = True
        # What a step draws, such as dropout, is then the same in a run that went on.
        seed = os.environ.get("PL_GLOBAL_SEED", "0")
        torch.manual_seed(int(fingerprint([seed, step, trainer.global_rank]), 16))
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        now = time.monotonic()
        timely = self.minutes is not None and now - self._saved_at >= 60 * self.minutes
        stop = self._asked
        if trainer.world_size > 1:
            looks = step % AGREED_EVERY == 0
            timely, stop = (looks and trainer.strategy.reduce_boolean_decision(v, all=False) for v in (timely, stop))
        by_count = self._epoch_done or (self.steps is not None and step % self.steps == 0)
        self._epoch_done = False
        if (timely or stop or by_count) and step > self._saved_step:
            failure = self._save(trainer)
            if failure is not None:
                rank_zero_warn(f"{failure}. The training goes on, and tries again after checkpoint's next interval")
        if stop:
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The best are saved here; the others when the next epoch begins."""
        self._epoch_done = self.epochs > 0 and (trainer.current_epoch + 1) % self.epochs == 0
        super().on_train_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the end of the training, and ends the program where somebody wants it to.

        Raises OSError where the end cannot be saved.
        """
        if self.signals is not None:
            self.signals.end()
        if trainer.global_step > self._saved_step:
            failure = self._save(trainer)
            if failure is not None:
                raise OSError(
                    f"{failure}. The training is over, but its end is not saved: make room and run the same command "
                    f"again; {self._goes_on()}"
                )
        if trainer.strategy.reduce_boolean_decision(self._asked, all=False):
            self._stop(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Says how to go on after a second Ctrl-C, or an error of a library."""
        if self.signals is not None:
            self.signals.end()
        if not isinstance(exception, SystemExit | ValueError | OSError):
            _say(trainer, f"training    ended by an error. Run again: {self._goes_on()}")

    # Saving.

    def _save(self, trainer: Trainer) -> str | None:
        """Saves a checkpoint and removes what it replaces; returns what went wrong with the disk, or None."""
        _refuse_not_finite(trainer, self._goes_on())
        step = trainer.global_step
        self._saved_at = time.monotonic()  # also of one that failed
        for logger in trainer.loggers:
            logger.save()
        assert self.dirpath is not None
        folder = Path(self.dirpath)
        path = folder / restart_name(step)
        with _between_batches(trainer):
            failure = write(trainer, path)
        if failure is not None:
            return failure
        self._saved_step, self.last_model_path = step, str(path)
        if trainer.is_global_zero:
            _point(folder / LAST, path.name)
        points = restart_points(folder)
        # Those of later steps are damaged, or of a training that went another way before this one.
        kept = sorted(number for number in points if number <= step)
        kept = kept if self.keep == -1 else kept[-self.keep :]
        for number in points.keys() - set(kept):
            trainer.strategy.remove_checkpoint(points[number])
        return None

    def _update_best_and_save(self, current: Tensor, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        """The best: where the disk refuses, the best so far stay."""
        names = ("current_score", "best_k_models", "kth_best_model_path", "kth_value", "best_model_path",
                 "best_model_score")  # fmt: skip
        before = {name: getattr(self, name) for name in names}
        self.best_k_models = dict(self.best_k_models)
        try:
            super()._update_best_and_save(current, trainer, monitor_candidates)
        except _NotSaved as error:
            for name, value in before.items():
                setattr(self, name, value)
            rank_zero_warn(f"{error}. The best checkpoints so far stay, and the training goes on")

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        failure = write(trainer, Path(filepath))
        if failure is not None:
            raise _NotSaved(failure)
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath

    def _goes_on(self) -> str:
        newest = self.newest
        return f"it goes on from {newest}" if newest else "it starts from the beginning, as nothing is saved yet"

    def _stop(self, trainer: Trainer) -> None:
        signals = self.signals
        name = signals.asked.name if signals is not None and signals.asked is not None else "another rank"
        _say(trainer, f"training    stopped by {name} after {trainer.global_step} steps. Run again: {self._goes_on()}")
        again = signals is not None and signals.asked == slurm.REQUEUE
        if trainer.strategy.reduce_boolean_decision(again, all=False) and trainer.is_global_zero:
            slurm.requeue()
        raise SystemExit(128 + (signals.asked if signals is not None and signals.asked is not None else 15))


def _say(trainer: Trainer, text: str) -> None:
    if trainer.is_global_zero:
        print(text, flush=True)


class _NotSaved(Exception):
    """One of the best was not saved."""


def write(trainer: Trainer, path: Path) -> str | None:
    """Saves the trainer's state on all ranks; returns, on all of them, what went wrong with the disk, or None."""
    io = trainer.strategy.checkpoint_io
    if not isinstance(io, AtomicCheckpointIO):  # of a person, or of a strategy
        trainer.save_checkpoint(path, weights_only=False)
        return None
    io.tolerant, io.failure = True, None
    try:
        trainer.save_checkpoint(path, weights_only=False)
    finally:
        io.tolerant = False
    failed = trainer.strategy.reduce_boolean_decision(io.failure is not None, all=False)
    return (io.failure or f"{path} could not be written") if failed else None


@contextmanager
def _between_batches(trainer: Trainer) -> Iterator[None]:
    """The loop's counters as they were before the batch that is to begin was taken from the loader."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress
    taken = progress.current.ready > progress.current.started  # none at the end of the training
    is_last = progress.is_last_batch
    if taken:
        progress.total.ready -= 1
        progress.current.ready -= 1
        progress.is_last_batch = False
    try:
        yield
    finally:
        if taken:
            progress.total.ready += 1
            progress.current.ready += 1
            progress.is_last_batch = is_last


def _refuse_not_finite(trainer: Trainer, goes_on: str) -> None:
    """Raises ValueError where a weight is no number: from such a checkpoint nothing can go on."""
    weights = [value for value in trainer.lightning_module.parameters() if value.is_floating_point()]
    # Of shards, those of this rank.
    local = [value.to_local() if hasattr(value, "to_local") else value for value in weights]
    finite = torch.stack([torch.isfinite(value.detach()).all() for value in local]).all()
    if trainer.strategy.reduce_boolean_decision(bool(finite)):
        return
    remedy = getattr(trainer.lightning_module, "remedy", "model.base_lr, lengthen model.warmup_epochs")
    raise ValueError(
        f"The weights are no finite numbers after {trainer.global_step} steps, so no checkpoint is saved. Lower "
        f"{remedy} or use trainer.precision 32-true and run again: {goes_on}"
    )


def _point(link: Path, name: str) -> None:
    """Makes a link to a file of the same folder, in place of what has the link's name."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.symlink(name, temporary)
        os.replace(temporary, link)
    except OSError:  # a disk without links: only the name of convenience is missing
        link.unlink(missing_ok=True)
