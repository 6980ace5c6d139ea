"""A training on several ranks: what makes it equal to one on one, and how ranks wait for each other."""

import copy
import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from torch.nn.parallel import DistributedDataParallel

from pas_train.sharding import FullyShardedStrategy
from pas_train.synchronised_norm import synchronise_batch_norms

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


def meeting_place() -> Callable[[], None]:
    """A barrier that waits for days. All ranks must call this together, and then each the barrier when it is there."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return lambda: None
    group: Any = dist.new_group(backend="gloo", timeout=PATIENCE)

    def meet() -> None:
        dist.barrier(group)

    return meet


def to_judge(trainer: Trainer, module: LightningModule) -> LightningModule:
    """Before the training: the module that rank 0 judges afterwards, alone; a copy where the trained one is sharded."""
    return copy.deepcopy(module) if isinstance(trainer.strategy, FullyShardedStrategy) else module
