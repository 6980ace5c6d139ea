"""Batches of images in their order, decoded in worker processes whose memory is used again."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from datamodules.loaders import QuietLoader, as_it_is
from datamodules.workers import heed_parent_only

AHEAD = 3  # batches that a worker makes ahead


class OrderedBatches(Dataset):
    """Whole batches {"image": uint8 [B, 3, S, S]} of a dataset of {"image": uint8 [3, S, S]}, or why there is none.

    batches: rows of each, int64 [B]. What reading an image raises comes as {"error": text}, for the one who takes the
    batches to raise: a worker's own error would come as a page of traceback.
    """

    def __init__(self, dataset: Dataset, batches: Sequence[np.ndarray]) -> None:
        self.dataset, self.batches = dataset, list(batches)
        self.used = torch.zeros(1, dtype=torch.int64).share_memory_()  # batches whose memory is free again
        self._held: list[tuple[int, Tensor]] = []  # of this worker: number of the batch, uint8 [largest B, 3, S, S]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> dict[str, Any]:
        images: Tensor | None = None
        for place, row in enumerate(self.batches[number].tolist()):
            try:
                image = self.dataset[row]["image"]
            except (ValueError, OSError, RuntimeError) as error:
                return {"error": str(error)}
            if images is None:
                images = self._memory(number, image.shape)
            images[place] = torch.from_numpy(image)
        assert images is not None  # no batch is empty
        return {"image": images}

    def _memory(self, number: int, shape: tuple[int, ...]) -> Tensor:
        """Of a batch; in a worker shared with the main process, and if possible that of a batch which was used.

        The kernel clears fresh shared pages, which takes longer than writing an image into them.
        """
        count = len(self.batches[number])
        if get_worker_info() is None:
            return torch.empty((count, *shape), dtype=torch.uint8)
        through = int(self.used)
        place = next((place for place, (owner, _) in enumerate(self._held) if owner < through), None)
        if place is None:
            most = max(len(rows) for rows in self.batches)
            memory = torch.empty((most, *shape), dtype=torch.uint8).share_memory_()
        else:
            memory = self._held.pop(place)[1]
        self._held.append((number, memory))
        return memory[:count]


def ordered_batches(dataset: Dataset, batches: Sequence[np.ndarray], num_workers: int) -> Iterator[Tensor]:
    """The batches, uint8 [B, 3, S, S] each; one's memory is another's as soon as the next is taken.

    Raises ValueError for an image that cannot be read.
    """
    made = OrderedBatches(dataset, batches)
    options: dict[str, Any] = {"num_workers": num_workers, "pin_memory": torch.cuda.is_available()}
    if num_workers:
        options |= {"prefetch_factor": AHEAD, "worker_init_fn": heed_parent_only}
    for number, batch in enumerate(QuietLoader(made, batch_size=None, collate_fn=as_it_is, **options)):
        if "error" in batch:
            raise ValueError(batch["error"])
        yield batch["image"]
        made.used[0] = number + 1


def spare_cores(ranks: int) -> int:
    """Loader processes of each of the ranks of this machine: the cores that they leave free."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(8, cores // max(1, ranks) - 1))
