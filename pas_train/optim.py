"""Schedules in fractional epochs, the optimisers by name, and the LARS of MoCo v3."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from pas_train.sharding import local, norms

OptimizerName = Literal["adamw", "lars", "lars_timm"]


def warmup_cosine(epoch: float, base_lr: float, batch_size: int, warmup_epochs: float, epochs: float) -> float:
    """Learning rate at a fractional epoch: linear from 0 over the warm-up, then half a cosine down to 0.

    The peak is base_lr * batch_size / 256, batch_size being the global batch (MoCo v3, section 4.1).
    """
    peak = base_lr * batch_size / 256
    if epoch < warmup_epochs:
        return peak * epoch / warmup_epochs
    if epochs <= warmup_epochs:  # a trial run that ends inside the warm-up
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * (epoch - warmup_epochs) / (epochs - warmup_epochs)))


def momentum_cosine(epoch: float, base: float, epochs: float) -> float:
    """Momentum of the key encoder at a fractional epoch, from `base` at 0 to 1 at `epochs` along half a cosine."""
    return 1 - (1 - base) * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling as MoCo v3 uses it for ResNets, with multi-tensor operations.

    Parameters with more than one dimension: g = g + weight_decay * p, then g = g * trust * |p| / |g| (1 where a norm
    is 0). Biases and norms get neither. Then u = momentum * u + g and p = p - lr * u. (timm's and lightly's LARS
    divide by |g| + weight_decay * |p| instead, which is another optimiser.)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.0,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust_coefficient: float = 0.001,
    ) -> None:
        if lr < 0 or momentum < 0 or weight_decay < 0:
            raise ValueError(f"LARS: lr, momentum and weight_decay must be >= 0, got {lr}, {momentum}, {weight_decay}")
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust_coefficient}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update; returns the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(params, group)
        return loss

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        momenta = []
        for p in params:
            state = self.state[p]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(p)
            momenta.append(state["momentum"])
        like, whole_dims = params[0], [p.ndim for p in params]
        updates = local([p.grad for p in params if p.grad is not None])
        params, momenta = local(params), local(momenta)
        scaled = [i for i, dims in enumerate(whole_dims) if dims > 1]
        if scaled:
            weights = [params[i] for i in scaled]
            decayed = torch._foreach_add([updates[i] for i in scaled], weights, alpha=group["weight_decay"])
            weight_norms, update_norms = norms(weights, like), norms(decayed, like)
            usable = (weight_norms > 0) & (update_norms > 0)
            rates = torch.where(usable, group["trust"] * weight_norms / update_norms, 1.0)  # no read back to the host
            torch._foreach_mul_(decayed, list(rates.unbind()))
            for i, update in zip(scaled, decayed, strict=True):
                updates[i] = update
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, updates)
        torch._foreach_add_(params, momenta, alpha=-group["lr"])


def check_optimizer(name: str) -> None:
    """Raises ValueError with the choices for an optimiser that `build_optimizer` does not know."""
    if name not in get_args(OptimizerName):
        raise ValueError(f"model.optimizer: {name!r} is not known; choices: {', '.join(get_args(OptimizerName))}")


def build_optimizer(name: OptimizerName, params: Iterable[Tensor], weight_decay: float) -> Optimizer:
    """The optimiser for trainable parameters, learning rate 0 until the schedule sets it.

    adamw: all in one group, biases and norms included, as in MoCo v3. lars: MoCo v3's `LARS`. lars_timm: timm's, as in
    lightly and most SimCLR code; its rate is trust * |p| / (|g| + weight_decay * |p|), with g before the decay, where
    MoCo v3 divides by |g + weight_decay * p|. Both leave parameters of one dimension out of rate and decay; timm's
    does so by a group without decay, and needs `always_adapt` to scale the weights where there is no decay at all.
    """
    check_optimizer(name)
    trainable = [p for p in params if p.requires_grad]
    if name == "adamw":  # capturable state is not needed; fused is one kernel per step on CPU and GPU
        return torch.optim.AdamW(trainable, lr=0.0, weight_decay=weight_decay, fused=True)
    if name == "lars":
        return LARS(trainable, weight_decay=weight_decay)
    from timm.optim.lars import Lars

    weights, others = [p for p in trainable if p.ndim > 1], [p for p in trainable if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": weight_decay, "always_adapt": True},
        {"params": others, "weight_decay": 0.0, "always_adapt": False},
    ]
    return Lars([group for group in groups if group["params"]], lr=0.0, momentum=0.9)
