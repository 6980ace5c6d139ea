"""A training on several ranks: what makes it equal to one on one, and how ranks wait for each other."""

import copy
import inspect
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from torch.nn.parallel import DistributedDataParallel

from pas_train import curated
from pas_train.sharding import FullyShardedStrategy
from pas_train.synchronised_norm import synchronise_batch_norms

T = TypeVar("T")

# While rank 0 judges the backbone, the others wait longer than the process group's 30 minutes. Those stay for the
# training, where a rank that does not answer is dead.
PATIENCE = timedelta(days=7)

# torch's newer and older name of one setting.
_KNOWN = inspect.signature(DistributedDataParallel.__init__).parameters
BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _KNOWN else "broadcast_buffers"


def prepare_ranks(trainer: Trainer, module: LightningModule, sync_batchnorm: bool) -> None:
    """Called in `setup("fit")`, before the strategy wraps the module.

    Raises: ValueError naming the setting of the trainer that does the same in another way.
    """
    if getattr(trainer.strategy, "_layer_sync", None) is not None:
        raise ValueError(
            "trainer.sync_batchnorm is true: torch's conversion works on CUDA only, and drops the activation inside "
            "some of timm's norms. Leave it at false: model.sync_batchnorm does it on every device, and is on by "
            "default"
        )
    if isinstance(trainer.strategy, FSDPStrategy):
        raise ValueError(
            "trainer.strategy is fsdp, which joins parameters into flat ones and so has no norms for LARS; use "
            "trainer.strategy fsdp2, or ddp"
        )
    if trainer.world_size == 1:
        return
    if sync_batchnorm:
        synchronise_batch_norms(module, trainer.strategy.root_device)
    if isinstance(trainer.strategy, DDPStrategy):
        # Lightning hands these to DistributedDataParallel; what the yaml says of them comes first.
        settings = trainer.strategy._ddp_kwargs
        settings.setdefault("gradient_as_bucket_view", True)  # no second copy of all gradients
        # Statistics of synchronised norms and NNCLR's support set come from what all ranks have gathered, so they are
        # equal; to send them (100 MB for the support set) before each step would only cost.
        if not settings.keys() & {BUFFERS, "broadcast_buffers"}:
            settings[BUFFERS] = not sync_batchnorm


class Meeting:
    """Where ranks wait for each other for days; of one process alone it does nothing.

    All ranks must make it together, and then each call it, and its methods, in the same order.
    """

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self.rank, self.world_size = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        self._group: Any = dist.new_group(backend="gloo", timeout=PATIENCE) if together else None

    def __call__(self) -> None:
        """A barrier."""
        if self._group is not None:
            dist.barrier(self._group)

    def told(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        if self._group is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def together(self, work: Callable[[], T]) -> T:
        """Runs the work on every rank. Where it fails on one, with an error of ours, it fails on all, none waits."""
        result: Any = None
        failed: Exception | None = None
        try:
            result = work()
        except (ValueError, OSError, RuntimeError) as error:
            failed = error
        if self._group is not None:
            said: list[str | None] = [None] * self.world_size
            dist.all_gather_object(said, None if failed is None else str(failed), group=self._group)
            first = next((line for line in said if line is not None), None)
            if failed is None and first is not None:
                raise ValueError(first)
        if failed is not None:
            raise failed
        return result


def meeting_place() -> Meeting:
    """A barrier that waits for days, and what else ranks do there."""
    return Meeting()


def start_ranks(trainer: Trainer, settings: Mapping[str, Any]) -> None:
    """Starts the other processes of a trainer that has not trained, and their group; nothing for one process.

    settings: the yaml's trainer section.
    """
    if trainer.world_size > 1 and not dist.is_initialized():
        curated.start_ranks(dict(settings))


def to_judge(trainer: Trainer, module: LightningModule) -> LightningModule:
    """Before the training: the module that rank 0 judges afterwards, alone; a copy where the trained one is sharded."""
    return copy.deepcopy(module) if isinstance(trainer.strategy, FullyShardedStrategy) else module
