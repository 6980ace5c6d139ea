import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pas_train.losses import gather_rows, moco_v3_loss, nnclr_loss


@pytest.fixture
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def embeddings(count: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(8, 5, generator=generator) for _ in range(count)]


def test_moco_v3_loss__formula_written_out() -> None:
    q1, q2, k1, k2 = (torch.nn.functional.normalize(x, dim=1).double() for x in embeddings(4, 0))
    expected = 0.0
    for q, k in ((q1, k2), (q2, k1)):
        for i in range(8):
            terms = [(q[i] @ k[j] / 0.3).exp() for j in range(8)]
            expected -= 2 * 0.3 * (terms[i] / sum(terms)).log().item() / 8
    assert moco_v3_loss(*embeddings(4, 0), temperature=0.3).item() == pytest.approx(expected, abs=1e-6)


def test_moco_v3_loss__keys_carry_no_gradient() -> None:
    q1, q2, k1, k2 = (x.requires_grad_() for x in embeddings(4, 1))
    moco_v3_loss(q1, q2, k1, k2, 0.2).backward()
    assert q1.grad is not None and k1.grad is None and k2.grad is None


def test_moco_v3_loss__float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = moco_v3_loss(*(x.bfloat16() for x in embeddings(4, 2)), temperature=0.2)
    assert loss.dtype == torch.float32


@pytest.mark.parametrize("loss", [lambda x: moco_v3_loss(x, x, x, x, 0.0), lambda x: nnclr_loss(x, x, -1.0)])
def test_losses__temperature_must_be_positive(loss) -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        loss(torch.ones(2, 2))


def of_rank(rank: int, port: int, results) -> None:
    """Losses and gradients of one of two ranks, each with half of the rows."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    half = slice(4 * rank, 4 * rank + 4)
    q1, q2, k1, k2 = (x[half].clone().requires_grad_() for x in embeddings(4, 3))
    moco = moco_v3_loss(q1, q2, k1, k2, 0.2)
    nnclr = nnclr_loss(k1, q1, 0.1)
    moco_gradient = torch.autograd.grad(moco, q1, retain_graph=True)[0]
    nnclr_gradient = torch.autograd.grad(nnclr, q1)[0]
    results[rank] = [moco.detach(), nnclr.detach(), gather_rows(moco_gradient), gather_rows(nnclr_gradient)]
    dist.destroy_process_group()


def test_losses__two_ranks_equal_one(free_port: int) -> None:
    with mp.get_context("fork").Manager() as manager:
        results = manager.dict()
        mp.start_processes(of_rank, (free_port, results), nprocs=2, start_method="fork")
        ranks = [results[0], results[1]]
    q1, q2, k1, k2 = embeddings(4, 3)
    q1.requires_grad_()
    moco, nnclr = moco_v3_loss(q1, q2, k1, k2, 0.2), nnclr_loss(k1, q1, 0.1)
    # DistributedDataParallel averages gradients, so two ranks' must be twice the whole batch's.
    torch.testing.assert_close((ranks[0][0] + ranks[1][0]) / 2, moco.detach())
    torch.testing.assert_close(ranks[0][1], nnclr.detach())
    torch.testing.assert_close(ranks[0][2] / 2, torch.autograd.grad(moco, q1, retain_graph=True)[0])
    torch.testing.assert_close(ranks[0][3] / 2, torch.autograd.grad(nnclr, q1)[0])
