"""Which image comes when: the order of an epoch, cut into global batches and shared among ranks."""

from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler


def epoch_order(rows: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation int64 [rows], a function of its arguments alone on every machine."""
    # No sample has so large a number, so the streams of `views.uniforms` are others.
    generator = np.random.Philox(key=np.array([seed % 2**64, 2**63 + epoch], dtype=np.uint64))
    return np.argsort(generator.random_raw(rows), kind="stable")


class _Sampler(DistributedSampler):
    """A sampler that shares rows among ranks itself.

    Being a DistributedSampler in name, Lightning leaves it in place also with use_distributed_sampler=True.
    """

    def __init__(self, rows: int, rank: int, world_size: int) -> None:
        super().__init__(_Rows(rows), num_replicas=world_size, rank=rank, shuffle=False)
        self.rows, self.rank, self.world_size = rows, rank, world_size


class _Rows(Dataset):
    """What DistributedSampler wants to know of a data set: its length."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows


class GlobalBatches(_Sampler):
    """This rank's share of each global batch, as (passes, rows), both int64 [batch_size / world_size].

    A row's pass is how often it has been due before, here the epoch.

    The order depends on seed and epoch only, so the same images meet in a batch whatever the number of ranks; the
    rows that fill no batch at the end are left out, others in each epoch.

    Args:
        rows: number of images.
        batch_size: of all ranks together.
        seed: of the order.
        rank: of this process.
        world_size: number of processes.
        place: called at the start of an iteration; gives the epoch and the number of its batches already done.
            Without it, set_epoch decides and iteration starts at the first batch.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        place: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        super().__init__(rows, rank, world_size)
        self.batch_size = batch_size
        self.order_seed = seed
        self.place = place

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self.rows // self.batch_size

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        epoch, done = self.place() if self.place else (self.epoch, 0)
        passes, rows = self.due(epoch)
        share = self.batch_size // self.world_size
        for batch in range(done, len(self)):
            start = batch * self.batch_size + self.rank * share
            yield passes[start : start + share], rows[start : start + share]

    def due(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(passes, rows) of a whole epoch in order, int64 [images of an epoch]."""
        return np.full(self.rows, epoch), epoch_order(self.rows, self.order_seed, epoch)


class RankRows(_Sampler):
    """Every world_size-th row; the first rows again where the number does not divide, so that ranks have as many."""

    def __len__(self) -> int:
        return -(-self.rows // self.world_size)

    def __iter__(self) -> Iterator[int]:
        return ((self.rank + i * self.world_size) % self.rows for i in range(len(self)))
