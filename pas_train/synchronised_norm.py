"""Batch normalisation over the batches of all processes, on any device.

torch's own SyncBatchNorm refuses CPU tensors, so it serves GPUs and the module of this file the rest.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over all ranks, whose gradient is the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class SynchronisedBatchNorm(_BatchNorm):
    """In training, [N, C, ...] is normalised by mean and variance of each channel over the rows of all ranks.

    N may differ among ranks. Statistics are float32 also under autocast. In evaluation, and without other ranks, it is
    torch's batch norm. Takes the place of any of its classes, timm's with an activation inside too.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, False, norm.track_running_stats)
        self.affine = norm.affine
        self.weight, self.bias = norm.weight, norm.bias  # the same tensors: optimisers may hold them already
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        for name, child in norm.named_children():  # timm's BatchNormAct2d: drop, act
            self.add_module(name, child)
        self.train(norm.training)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"Batch norm takes inputs of two dimensions and more, got {input.ndim}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalises; every rank must call it as often as the others."""
        together = self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        output = self._normalise_together(input) if together else super().forward(input)
        for child in self.children():
            output = child(output)
        return output

    def _normalise_together(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        values = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        others = [dim for dim in range(input.ndim) if dim != 1]
        shape = [1, -1] + [1] * (input.ndim - 2)
        with torch.autocast(input.device.type, enabled=False):
            rows = values.new_full((1,), values.numel() // values.shape[1])
            sums = _SumOverRanks.apply(torch.cat([values.sum(others), rows]))
            mean, count = sums[:-1] / sums[-1], sums[-1].detach()
            centred = values - mean.view(shape)
            # In two passes: the mean of squares less the square of the mean would lose the digits of small variances.
            variance = _SumOverRanks.apply(centred.square().sum(others)) / count
            self._remember(mean.detach(), variance.detach(), count)
            scale = torch.rsqrt(variance + self.eps)
            if self.weight is not None:
                scale = scale * self.weight
            output = centred * scale.view(shape)
            if self.bias is not None:
                output = output + self.bias.view(shape)
        return output.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Moves the running statistics; the variance's is that of the population, as in torch."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        unbiased = variance * count / (count - 1).clamp(min=1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


def synchronise_batch_norms(module: nn.Module, device: torch.device) -> None:
    """Makes all batch norms inside a module synchronised ones, in place; the names of their tensors stay.

    torch's own (timm's form of it, which knows norms with an activation inside) on CUDA, else `SynchronisedBatchNorm`.
    """
    for name, child in module.named_children():
        if not isinstance(child, _BatchNorm):
            synchronise_batch_norms(child, device)
        elif not isinstance(child, SynchronisedBatchNorm | nn.SyncBatchNorm):
            setattr(module, name, _synchronised(child, device))


def _synchronised(norm: _BatchNorm, device: torch.device) -> nn.Module:
    if device.type != "cuda":
        return SynchronisedBatchNorm(norm)
    from timm.layers import convert_sync_batchnorm

    converted: nn.Module = convert_sync_batchnorm(norm)
    return converted
