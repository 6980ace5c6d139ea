import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import FSDPStrategy

from pas_train.methods import MoCoV3
from pas_train.optim import LARS
from pas_train.ranks import meeting_place, prepare_ranks
from tests.pas_train.methods.small_training import VIT


def test_meeting_place__waits_longer_than_the_process_group(two_ranks) -> None:
    def work(rank: int) -> None:
        dist.init_process_group("gloo", timeout=timedelta(seconds=1))
        meet = meeting_place()
        if rank == 0:
            time.sleep(2)
        meet()
        if rank == 0:
            time.sleep(2)
        with pytest.raises(RuntimeError, match="(?i)timed out|closed"):
            dist.barrier()

    two_ranks(work)


def test_meeting_place__alone_there_is_nobody_to_wait_for() -> None:
    meeting_place()()


def test_prepare_ranks__flat_shards_are_refused() -> None:
    module = MoCoV3(**VIT, image_size=16, projector_hidden=8, projector_dim=4)
    trainer = SimpleNamespace(strategy=FSDPStrategy(), world_size=2)
    with pytest.raises(ValueError, match=r"trainer\.strategy is fsdp.*fsdp2"):
        prepare_ranks(trainer, module, True)


def test_lars__shards_that_are_empty_on_a_rank(two_ranks) -> None:
    """One row on two ranks: rank 1 has nothing of it, but must take part in the norm."""

    def work(rank: int) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        torch.manual_seed(0)
        dist.init_process_group("gloo")
        whole, part = torch.nn.Linear(6, 1), torch.nn.Linear(6, 1)
        part.load_state_dict(whole.state_dict())
        fully_shard(part, mesh=init_device_mesh("cpu", (2,)))
        rows = torch.randn(4, 6)
        for module in (whole, part):
            optimizer = LARS(module.parameters(), lr=1.0, weight_decay=0.1)
            for _ in range(2):
                optimizer.zero_grad()
                module(rows).square().mean().backward()
                optimizer.step()
        torch.testing.assert_close(part.weight.full_tensor(), whole.weight)

    two_ranks(work)
