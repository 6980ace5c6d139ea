"""FAST-tiny's network, with the names of the published checkpoints, and its form for inference."""

import pickle
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

# (height, width) of the kernels; the second stride where it is 2. Channels double from stage to stage.
STAGES = (
    (64, ((3, 3), (3, 3), (3, 3)), 1),
    (128, ((3, 3), (1, 3), (3, 3), (3, 1)), 0),
    (256, ((3, 3), (3, 3), (3, 1), (1, 3)), 0),
    (512, ((3, 3), (3, 1), (1, 3), (3, 3)), 0),
)  # channels, kernels, number of the block with stride 2
NECK = 128
OUTPUTS = 5  # the text kernels, and four embedding channels that only the training uses


class Block(nn.Module, ABC):
    """ReLU of a sum of normalised convolutions of the same input, which `fuse` makes one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.fused: nn.Conv2d | None = None

    @abstractmethod
    def branches(self) -> list[tuple[nn.Conv2d | None, nn.BatchNorm2d]]:
        """The terms; no convolution stands for the input itself. The first has the kernel that holds all others."""

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, C, H, W] -> [N, C', H / stride, W / stride]."""
        if self.fused is not None:
            return functional.relu(self.fused(x))
        terms = [norm(x if conv is None else conv(x)) for conv, norm in self.branches()]
        return functional.relu(sum(terms[1:], terms[0]))

    @torch.no_grad()
    def fuse(self) -> None:
        """Makes the branches one convolution with a bias; the same output, to rounding."""
        branches = self.branches()
        main = cast(nn.Conv2d, branches[0][0])
        high, wide = cast(tuple[int, int], main.kernel_size)
        kernel = torch.zeros(main.weight.shape, dtype=torch.float64)  # a sum of products of four rounded numbers
        bias = torch.zeros(main.out_channels, dtype=torch.float64)
        for conv, norm in branches:
            mean, variance = cast(Tensor, norm.running_mean).double(), cast(Tensor, norm.running_var).double()
            scale = norm.weight.double() / (variance + norm.eps).sqrt()
            weight = torch.eye(main.out_channels)[..., None, None] if conv is None else conv.weight
            across, down = (wide - weight.shape[3]) // 2, (high - weight.shape[2]) // 2
            kernel += functional.pad(weight.double() * scale.view(-1, 1, 1, 1), (across, across, down, down))
            bias += norm.bias.double() - mean * scale
        with torch.device("meta"):
            fused = nn.Conv2d(main.in_channels, main.out_channels, (high, wide), main.stride, main.padding)  # type: ignore[arg-type]
        fused.weight, fused.bias = nn.Parameter(kernel.float()), nn.Parameter(bias.float())
        for name in list(self._modules):
            delattr(self, name)
        self.fused = fused


class Stem(Block):
    """The first convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def branches(self) -> list[tuple[nn.Conv2d | None, nn.BatchNorm2d]]:
        """One term."""
        return [(self.conv, self.bn)]


class RepConv(Block):
    """A convolution h x w, beside it h x 1 (where w > 1), 1 x w (where h > 1), and the input (where shapes agree)."""

    def __init__(self, before: int, after: int, kernel: tuple[int, int] = (3, 3), stride: int = 1) -> None:
        super().__init__()
        high, wide = kernel
        terms = {"main": kernel}
        terms |= {"ver": (high, 1)} if wide > 1 else {}
        terms |= {"hor": (1, wide)} if high > 1 else {}
        self.names = [f"{name}_" for name in terms]
        for name, size in terms.items():
            padding = (size[0] // 2, size[1] // 2)
            self.add_module(f"{name}_conv", nn.Conv2d(before, after, size, stride, padding, bias=False))
            self.add_module(f"{name}_bn", nn.BatchNorm2d(after))
        self.rbr_identity = nn.BatchNorm2d(before) if before == after and stride == 1 else None

    def branches(self) -> list[tuple[nn.Conv2d | None, nn.BatchNorm2d]]:
        """Two to four terms."""
        found: list[Any] = [(getattr(self, f"{name}conv"), getattr(self, f"{name}bn")) for name in self.names]
        return found + ([(None, self.rbr_identity)] if self.rbr_identity is not None else [])


class Backbone(nn.Module):
    """TextNet-tiny: four stages of re-parameterised convolutions behind a stem."""

    def __init__(self) -> None:
        super().__init__()
        before = STAGES[0][0]
        self.first_conv = Stem(before)
        for number, (channels, kernels, strided) in enumerate(STAGES, start=1):
            blocks = nn.ModuleList()
            for place, kernel in enumerate(kernels):
                blocks.append(RepConv(before, channels, kernel, 2 if place == strided else 1))
                before = channels
            self.add_module(f"stage{number}", blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Float [N, 3, H, W] -> the stages' outputs [N, C, H / s, W / s] for s = 4, 8, 16, 32."""
        x = self.first_conv(x)
        outputs = []
        for number in range(1, len(STAGES) + 1):
            for block in cast(nn.ModuleList, getattr(self, f"stage{number}")):
                x = block(x)
            outputs.append(x)
        return outputs


class FASTTiny(nn.Module):
    """FAST-tiny: faster arbitrarily-shaped text detector (Chen et al. 2021, arXiv 2111.02394), 8.5 M parameters.

    Written from the paper and the published layout (github.com/czczup/FAST, fast_tiny.config); modules bear the names
    of the published checkpoints.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.neck = nn.ModuleDict(
            {f"reduce_layer{number}": RepConv(stage[0], NECK) for number, stage in enumerate(STAGES, start=1)}
        )
        final = nn.ModuleDict({"conv": nn.Conv2d(NECK, OUTPUTS, 1, bias=False)})
        self.det_head = nn.ModuleDict({"conv": RepConv(NECK * len(STAGES), NECK), "final": final})

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [N, 3, H, W], sides multiples of 32 -> logits [N, 5, H / 4, W / 4]; channel 0 the text."""
        maps = [reduce(x) for reduce, x in zip(self.neck.values(), self.backbone(images), strict=True)]
        size = maps[0].shape[2:]
        maps[1:] = [functional.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in maps[1:]]
        x = self.det_head["conv"](torch.cat(maps, dim=1))
        return cast(nn.ModuleDict, self.det_head["final"])["conv"](x)

    def fuse(self) -> "FASTTiny":
        """Itself in the form for inference: one convolution for each block, evaluation mode, no gradients."""
        for module in list(self.modules()):
            if isinstance(module, Block):
                module.fuse()
        return self.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def load_fast_tiny(path: Path, key: str = "curation.text.detector.model") -> FASTTiny:
    """The network of a published training file, in the form for inference, on the CPU.

    The file holds averaged weights under `ema`, with names that begin with `module.`. Every weight is used, and none
    stays random: ValueError that lists what is missing or left over. key: the yaml key, for errors.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{key}: {path} cannot be read as a checkpoint of torch ({reason}); download it again"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("ema"), dict):
        holds = (
            f"a dictionary of {_some(list(content))}" if isinstance(content, dict) else f"a {type(content).__name__}"
        )
        raise ValueError(f"{key}: {path} is no training file of FAST: it is {holds}, where 'ema' was expected")
    weights = {name.removeprefix("module."): value for name, value in content["ema"].items()}
    with torch.device("meta"):  # no random values that anything could leave there
        network = FASTTiny()
    own = network.state_dict()
    wrong = {
        "missing": [name for name in own if name not in weights],
        "left over": [name for name in weights if name not in own],
        "of another shape": [
            f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
            for name in own if name in weights and weights[name].shape != own[name].shape
        ],
    }  # fmt: skip
    if any(wrong.values()):
        found = "; ".join(f"{len(names)} {what}: {_some(names)}" for what, names in wrong.items() if names)
        raise ValueError(
            f"{key}: {path} does not hold FAST-tiny ({found}); the file of the paper's settings is "
            "fast_tiny_tt_512_finetune_ic17mlt.pth"
        )
    network.load_state_dict(weights, assign=True)
    return network.float().fuse()


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")
