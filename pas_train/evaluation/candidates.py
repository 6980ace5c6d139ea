"""The backbones that are judged beside each other."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from datamodules.files import fingerprint

Kind = Literal["trained", "start", "untrained", "pixels", "published"]
# What a module's attributes tell of what it computes; not how it is run.
RUNNING = ("training", "fused_attn")


@dataclass(frozen=True)
class Candidate:
    """One backbone that is judged.

    name: in results.json. title: for tables. backbone: None stands for the raw pixels.
    mean, std: of the colours in [0, 1] that it knows.
    """

    name: str
    title: str
    kind: Kind
    architecture: str
    backbone: nn.Module | None
    mean: Sequence[float]
    std: Sequence[float]


def identity(backbone: nn.Module | None) -> str:
    """Sixteen hexadecimal digits of a backbone's weights and of what its modules do with them."""
    if backbone is None:
        return "pixels"
    digest = hashlib.sha256(fingerprint(_architecture(backbone)).encode())
    for name, value in backbone.state_dict().items():
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\n".encode())
        digest.update(value.detach().contiguous().cpu().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _architecture(backbone: nn.Module) -> list[Any]:
    """Names, classes and plain attributes, such as the number of attention heads, which no tensor shows.

    Batch norms count as one class, with their epsilon: a training on several devices has others than its checkpoint.
    """
    found = []
    for name, module in backbone.named_modules():
        if isinstance(module, _BatchNorm):
            found.append([name, "BatchNorm", {"eps": module.eps}])
        else:
            plain = {key: value for key, value in vars(module).items() if _tells(key, value)}
            found.append([name, type(module).__qualname__, plain])
    return found


def _tells(key: str, value: Any) -> bool:
    if key.startswith("_") or key in RUNNING:
        return False
    values = value if isinstance(value, tuple | list) else (value,)
    return all(one is None or isinstance(one, bool | int | float | str) for one in values)
