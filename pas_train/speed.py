"""What makes the same training faster on some devices: compiled backbones, and the order of memory."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from pas_train.sharding import is_sharded

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
BACKBONES = ("backbone", "momentum_backbone")


def compile_options(compile: bool | str) -> dict[str, Any] | None:
    """Arguments of torch.compile for the setting, None for false. Raises ValueError for what is neither."""
    if isinstance(compile, bool):
        return {} if compile else None
    if compile in MODES:
        return {"mode": compile}
    backends = torch.compiler.list_backends(exclude_tags=())
    if compile in backends:
        return {"backend": compile}
    raise ValueError(
        f"model.compile: {compile!r} is not known; choices: false, true, a mode ({', '.join(MODES)}) or a backend "
        f"({', '.join(backends)})"
    )


def prepare(module: Any, compile: bool | str, channels_last: bool | None) -> None:
    """Puts the backbones' weights in the order of memory, and has them compiled at their first call.

    Both change neither the parameters nor their names. channels_last null: on a GPU, for networks of convolutions.
    """
    if channels_last and is_sharded(module):
        raise ValueError("model.channels_last is true, which torch's shards refuse: leave it out, or use ddp")
    parts = [getattr(module, name) for name in BACKBONES if hasattr(module, name)]
    if in_channels_last(module, channels_last):
        for part in parts:  # in place, so that the optimiser's parameters stay what they are
            part.to(memory_format=torch.channels_last)
    options = compile_options(compile)
    if options is not None:
        for part in parts:
            part.compile(dynamic=False, **options)


def in_channels_last(module: Any, channels_last: bool | None) -> bool:
    """Whether images go through the backbones with the channels last: tensor cores want convolutions' inputs so."""
    if channels_last is None:
        return module.device.type == "cuda" and not module.transformer and not is_sharded(module)
    return channels_last


def not_compiled(module: nn.Module) -> AbstractContextManager[None]:
    """Other batches than the training's go through the module as it is: each size would be compiled anew."""
    return torch.compiler.set_stance("force_eager") if module._compiled_call_impl is not None else nullcontext()
