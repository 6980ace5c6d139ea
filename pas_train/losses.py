"""Losses of the pretraining methods, as functions on tensors.

Shapes: N rows on this rank, M = N times the number of ranks, D dimensions of the embedding.
All functions work with and without a process group.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def world() -> tuple[int, int]:
    """(rank, number of ranks) of the process group, or (0, 1) without one."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@torch.no_grad()
def gather_rows(rows: Tensor) -> Tensor:
    """The rows [N, ...] of all ranks in order of rank [M, ...], without gradient; N must be the same on every rank."""
    _, size = world()
    if size == 1:
        return rows.detach()
    parts = [torch.empty_like(rows) for _ in range(size)]
    dist.all_gather(parts, rows.detach().contiguous())
    return torch.cat(parts)


class _GatherWithGradient(torch.autograd.Function):
    """Rows of all ranks; the gradient that returns is that of the own rows times the number of ranks.

    Every rank computes the same global loss, so the own slice of the gradient is complete; the factor undoes the
    division by the number of ranks in DistributedDataParallel's average.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = rows.shape[0]
        return gather_rows(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        rank, size = world()
        return gradient[rank * ctx.count : (rank + 1) * ctx.count] * size


def moco_v3_loss(q1: Tensor, q2: Tensor, k1: Tensor, k2: Tensor, temperature: float) -> Tensor:
    """Symmetric contrastive loss of MoCo v3 (Chen et al. 2021, algorithm 1): ctr(q1, k2) + ctr(q2, k1), a scalar.

    q1, q2: predictions of the two views [N, D]; k1, k2: momentum embeddings [N, D]. All are normalised here, in
    float32 also under autocast. The keys of all ranks are the candidates; they carry no gradient. Each term is
    2 * temperature * cross-entropy and the two are summed, not averaged.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    with torch.autocast(q1.device.type, enabled=False):
        return _contrast(q1, k2, temperature) + _contrast(q2, k1, temperature)


def _contrast(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    rank, _ = world()
    q_ND = F.normalize(queries.float(), dim=1)
    k_MD = gather_rows(F.normalize(keys.float(), dim=1))
    targets = torch.arange(len(q_ND), device=q_ND.device) + rank * len(q_ND)
    return 2 * temperature * F.cross_entropy(q_ND @ k_MD.T / temperature, targets)


def nnclr_loss(neighbours: Tensor, predictions: Tensor, temperature: float, symmetric_columns: bool = True) -> Tensor:
    """One direction of NNCLR's loss (Dwibedi et al. 2021, section 3.2), a scalar; a method averages two directions.

    neighbours: nearest support embeddings of one view [N, D], constants; predictions: of the other view [N, D].
    Both are normalised here, in float32. The batch of all ranks is the denominator. With `symmetric_columns` the
    mean of the cross-entropies over rows and over columns, otherwise rows (neighbour against all predictions) only.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    with torch.autocast(predictions.device.type, enabled=False):
        n_MD = gather_rows(F.normalize(neighbours.float(), dim=1))
        p_MD = _GatherWithGradient.apply(F.normalize(predictions.float(), dim=1))
        logits_MM = n_MD @ p_MD.T / temperature
        targets = torch.arange(len(logits_MM), device=logits_MM.device)
        rows = F.cross_entropy(logits_MM, targets)
        return (rows + F.cross_entropy(logits_MM.T, targets)) / 2 if symmetric_columns else rows
