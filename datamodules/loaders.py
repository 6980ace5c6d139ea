"""Loaders of whole batches, and the place in the data at which a training goes on."""

import math
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from datamodules.batch_memory import BatchMemory
from datamodules.workers import deaf_from_birth, heed_parent_only

HELD = 3  # batches of a worker that a training has in hand, beside those that are made ahead


class QuietLoader(DataLoader):
    """A DataLoader without torch's page on the number of workers; the data module says it with the setting's name.

    Its processes can be told by `worker_init_fn=heed_parent_only` to go on after a signal to all of a training. Where
    the data set has a `memory`, they hand batches over in that.
    """

    def __iter__(self) -> Any:
        """An iterator over the batches."""
        if self.num_workers == 0 or not hasattr(self.dataset, "memory"):
            memory = None
        elif self.persistent_workers and self._iterator is not None:
            memory = self.dataset.memory  # that of its workers
        else:
            memory = self.dataset.memory = BatchMemory(self.num_workers, (self.prefetch_factor or 2) + HELD)
        with deaf_from_birth():
            iterator: Any = super().__iter__()
        iterator.memory = memory  # kept as long as batches may come
        return iterator

    def check_worker_number_rationality(self) -> None:
        """Nothing to say."""


class RestartableLoader(QuietLoader):
    """A DataLoader whose sampler continues at the trainer's step; says so to Lightning by having a state."""

    def state_dict(self) -> dict[str, Any]:
        """Empty: the place in the data is a function of the trainer's step, which is in every checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to do, see state_dict."""


def place_of(trainer: Trainer, batches: int) -> tuple[int, int]:
    """Epoch and number of its batches done, at the trainer's step; batches: of the loader in an epoch.

    Follows from the count of optimiser steps alone, so that a run that continues from any checkpoint, in the middle
    of an epoch too, sees exactly the batches that it would have seen.
    """
    limit = trainer.limit_train_batches
    used = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    accumulated = trainer.accumulate_grad_batches
    epoch, steps = divmod(trainer.global_step, max(1, math.ceil(used / accumulated)))
    return epoch, steps * accumulated


def as_it_is(batch: Any) -> Any:
    """The collate_fn of data sets whose items are whole batches."""
    return batch


def worker_options(count: int, kept: bool = False) -> dict[str, Any]:
    """Of a DataLoader with so many processes. kept: they live on from epoch to epoch."""
    options: dict[str, Any] = {"num_workers": count, "pin_memory": torch.cuda.is_available()}
    return options | ({"worker_init_fn": heed_parent_only, "persistent_workers": kept} if count else {})
