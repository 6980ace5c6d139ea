"""`trainer.strategy: fsdp2`: weights, gradients and optimiser states cut into a shard per process, for large backbones.

PyTorch's `fully_shard` (FSDP2) keeps every parameter a tensor of its own, so norms for LARS, frozen parameters beside
trained ones, and names in checkpoints stay what they are; FSDP1 joins parameters into flat ones.
"""

import warnings
from typing import Any, cast

import torch
import torch.distributed as dist
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import Tensor, nn
from torch.optim import Optimizer


class FullyShardedStrategy(ModelParallelStrategy):
    """Shards over all processes. A checkpoint is one file like that of any other strategy, and goes on with any."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(save_distributed_checkpoint=False, **settings)

    def setup_environment(self) -> None:
        """One dimension of processes, all of them for data."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state on rank 0, with torch's numbers for parameters, as without shards."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        optimizer = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        named: dict[str, Any] = get_optimizer_state_dict(cast(nn.Module, self.model), optimizer, options=options)
        if not named:
            return named
        numbers = {name: number for number, name in enumerate(_names(cast(nn.Module, self.model), optimizer))}
        return {
            "state": {numbers[name]: state for name, state in named["state"].items()},
            "param_groups": [
                {**group, "params": [numbers[name] for name in group["params"]]} for group in named["param_groups"]
            ],
        }

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads the file on every rank, which keeps its shards of it; the rest is not held in memory."""
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            set_model_state_dict,
            set_optimizer_state_dict,
        )

        # Our own checkpoint, or one that the person names: it may hold the state of loaders and callbacks.
        checkpoint: dict[str, Any] = torch.load(
            self.broadcast(checkpoint_path), map_location="cpu", weights_only=False, mmap=True
        )
        model, options = cast(nn.Module, self.model), StateDictOptions(full_state_dict=True, strict=True)
        set_model_state_dict(model, checkpoint["state_dict"], options=options)
        for optimizer, numbered in zip(self.optimizers, checkpoint.get("optimizer_states", ()), strict=False):
            names = _names(model, optimizer)
            named: dict[str, Any] = {
                "state": {names[number]: state for number, state in numbered["state"].items()},
                "param_groups": [
                    {**group, "params": [names[number] for number in group["params"]]}
                    for group in numbered["param_groups"]
                ],
            }
            set_optimizer_state_dict(model, optimizer, named, options=options)
        return checkpoint


StrategyRegistry.register("fsdp2", FullyShardedStrategy, description="PyTorch's fully_shard over all processes")


def _names(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """Names of an optimiser's parameters in its order."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def shard(module: nn.Module, mesh: Any) -> None:
    """Shards each part of a method, in place: blocks of backbones by themselves, so that one at a time is whole."""
    from torch.distributed.fsdp import fully_shard

    # The embedding of a transformer is a view of its tokens; nothing here changes it in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    for part in module.children():
        if next(part.parameters(), None) is None:
            continue
        for group in part.children():
            if isinstance(group, nn.Sequential | nn.ModuleList):
                for block in group:
                    if next(block.parameters(), None) is not None:
                        fully_shard(block, mesh=mesh, reshard_after_forward=True)
        # Resharded after every forward also at the root: the momentum update works on shards.
        fully_shard(part, mesh=mesh, reshard_after_forward=True)


def is_sharded(module: nn.Module) -> bool:
    """Whether the module's weights are shards."""
    return any(hasattr(parameter, "device_mesh") for parameter in module.parameters())


def local(tensors: list[Tensor]) -> list[Tensor]:
    """This rank's shards of tensors, to be changed in place; the tensors themselves where they are not sharded."""
    return [cast(Any, tensor).to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]


def norms(tensors: list[Tensor] | tuple[Tensor, ...], like: Tensor) -> Tensor:
    """Euclidean norms [N] of whole tensors, without a wait for the device.

    tensors: this rank's shards where `like`, a parameter, is sharded; else whole.
    """
    own = torch.stack(torch._foreach_norm(tensors))
    if not hasattr(like, "device_mesh"):
        return own
    squares = own.square()
    dist.all_reduce(squares, group=cast(Any, like).device_mesh.get_group())
    return squares.sqrt()
