"""detectron2: weights as its model zoo has them (ResNet and ViTDet names), with the backbone's configuration.

Its transformer is ViTDet's: patches alone, without class token and last norm.
"""

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import yaml
from torch import Tensor

from pas_train.exporting.detectron2_configs import lazy_config, stages_of, yaml_settings
from pas_train.exporting.source import Source
from pas_train.exporting.structure import refuse, resnet_extras, vit_extras
from pas_train.exporting.target import NamedTarget

WEIGHTS, CONFIG, YAML = "model.pkl", "backbone.py", "config.yaml"
NORM = ("weight", "bias", "running_mean", "running_var")

# What ViTDet does without: class token and whatever follows the last block.
_LEFT_OUT = ("cls_token", "norm.", "fc_norm.", "attn_pool.")
_NO_MATTER = (
    "no class token", "a position embedding of the patches alone", "no last norm", "its last norm after", "the pooling"
)  # fmt: skip
_RESNET = re.compile(r"(?:layer(\d)\.(\d+)\.)?(conv\d|bn\d|downsample\.\d)\.(.+)")
_PARTS = {
    "conv1": "conv1", "conv2": "conv2", "conv3": "conv3", "downsample.0": "shortcut",
    "bn1": "conv1.norm", "bn2": "conv2.norm", "bn3": "conv3.norm", "downsample.1": "shortcut.norm",
}  # fmt: skip


def renamed(name: str) -> str | None:
    """detectron2's name of one of timm's tensors; None where detectron2 has no place for it."""
    if _absent(name):
        return None
    match = _RESNET.fullmatch(name)
    if match is None:
        return name  # ViTDet's names are timm's
    stage, block, part, end = match.groups()
    return f"{f'res{int(stage) + 1}.{block}' if stage else 'stem'}.{_PARTS[part]}.{end}"


class Detectron2(NamedTarget):
    """ResNets by stem, res2 to res5; vision transformers as ViTDet's."""

    name: ClassVar[str] = "detectron2"
    title: ClassVar[str] = "detectron2"
    library: ClassVar[str | None] = "detectron2"
    install: ClassVar[str] = "pip install 'git+https://github.com/facebookresearch/detectron2.git'"
    loader: ClassVar[str] = "detectron2"

    def check(self, source: Source) -> None:
        """Raises ValueError where detectron2 has no such backbone."""
        net: Any = source.backbone
        extras = [one for one in vit_extras(net) if not one.startswith(_NO_MATTER)] if source.transformer else []
        extras += [] if source.transformer else resnet_extras(net)
        if source.transformer and len({*net.patch_embed.grid_size}) + len({*net.patch_embed.patch_size}) > 2:
            extras.append("patches or an image that are no squares")
        if not extras:  # of the rest, such as an attention of another width
            present = {name: tuple(value.shape) for name, value in source.state.items() if not _absent(name)}
            theirs = {name: shape for _, name, shape in _tensors(source)}
            odd = sorted(name for name in {*present, *theirs} if present.get(name) != theirs.get(name))
            extras += [f"other tensors ({', '.join(odd[:3])}{', ...' if len(odd) > 3 else ''})"] if odd else []
        refuse(self.name, "detectron2", source, extras, "plain, onnx or torchscript")

    def write(self, source: Source, folder: Path) -> None:
        """Writes model.pkl, backbone.py (LazyConfig) and, of ResNets that it builds by depth, config.yaml."""
        named = {renamed(name): value for name, value in source.state.items()}
        tensors = {name: value.detach().cpu().numpy() for name, value in named.items() if name is not None}
        content = {
            "model": tensors, "__author__": "pas_train", "matching_heuristics": True, "metadata": dict(source.metadata)
        }  # fmt: skip
        with open(folder / WEIGHTS, "wb") as file:
            _Pickler(file, protocol=4).dump(content)
        (folder / CONFIG).write_text(lazy_config(source))
        settings = None if source.transformer else yaml_settings(source)
        if settings is not None:
            head = "# To be merged into a configuration of detectron2's model zoo, after its own.\n"
            (folder / YAML).write_text(head + yaml.safe_dump(settings, sort_keys=False))

    def features(self, source: Source) -> tuple[str, ...]:
        """Of a transformer the map that its patches compute alone."""
        return ("patch_map",) if source.transformer else ("embedding", "map")

    def recorded(self, source: Source) -> dict[str, tuple[int, ...]]:
        """Names and shapes of detectron2's ResNet (norms frozen) or ViT (without relative positions)."""
        return {theirs: shape for theirs, _, shape in _tensors(source)}

    def read(self, folder: Path) -> Mapping[str, Tensor]:
        """The tensors of model.pkl."""
        with open(folder / WEIGHTS, "rb") as file:
            return {name: torch.from_numpy(value) for name, value in pickle.load(file)["model"].items()}

    def restore(self, tensors: Mapping[str, Tensor], source: Source) -> dict[str, Tensor]:
        """Under timm's names; what detectron2 has no place for (class token, last norm, counters) is the source's."""
        back = {ours: tensors[theirs] for theirs, ours, _ in _tensors(source)}
        return {name: back.get(name, value) for name, value in source.state.items() if name in back or _absent(name)}


class _Pickler(pickle.Pickler):
    """Writes arrays so that every version of numpy reads them: 1 and 2 disagree on the names in their own pickles."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return NotImplemented
        return np.ndarray, (value.shape, value.dtype.str, bytearray(value.tobytes()))


def _absent(name: str) -> bool:
    return name.startswith(_LEFT_OUT) or name.endswith("num_batches_tracked")


def _tensors(source: Source) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(detectron2's name, timm's name, shape) of all tensors of detectron2's model, as its source code makes them."""
    return _transformer_tensors(source.backbone) if source.transformer else _resnet_tensors(source.backbone)


# ResNets.


def _resnet_tensors(net: Any) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    stem = net.conv1.out_channels
    yield from _convolution("stem.conv1", "conv1", "bn1", (stem, net.conv1.in_channels, 7, 7))
    for number, stage in enumerate(stages_of(net), start=1):
        out, inner = stage.channels, stage.bottleneck
        for place in range(stage.blocks):
            given = stage.given if place == 0 else out
            at, ours = f"res{number + 1}.{place}", f"layer{number}.{place}"
            if inner is None:
                shapes = [(out, given, 3, 3), (out, out, 3, 3)]
            else:
                shapes = [(inner, given, 1, 1), (inner, inner // stage.groups, 3, 3), (out, inner, 1, 1)]
            if given != out:
                shortcut = (f"{ours}.downsample.0", f"{ours}.downsample.1")
                yield from _convolution(f"{at}.shortcut", *shortcut, (out, given, 1, 1))
            for one, shape in enumerate(shapes, start=1):
                yield from _convolution(f"{at}.conv{one}", f"{ours}.conv{one}", f"{ours}.bn{one}", shape)


def _convolution(at: str, ours: str, norm: str, shape: tuple[int, ...]) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    yield f"{at}.weight", f"{ours}.weight", shape
    for name in NORM:
        yield f"{at}.norm.{name}", f"{norm}.{name}", shape[:1]


# Vision transformers.


def _transformer_tensors(vit: Any) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    width, patch = vit.embed_dim, vit.patch_embed.patch_size[0]
    hidden = vit.blocks[0].mlp.fc1.out_features
    shapes = {
        "pos_embed": (1, vit.pos_embed.shape[1], width),
        "patch_embed.proj.weight": (width, vit.patch_embed.proj.in_channels, patch, patch),
        "patch_embed.proj.bias": (width,),
    }
    for place in range(len(vit.blocks)):
        parts: dict[str, tuple[int, ...]] = {"attn.qkv.weight": (3 * width, width)}
        if vit.blocks[0].attn.qkv.bias is not None:
            parts["attn.qkv.bias"] = (3 * width,)
        parts |= {"attn.proj.weight": (width, width), "attn.proj.bias": (width,)}
        parts |= {"mlp.fc1.weight": (hidden, width), "mlp.fc1.bias": (hidden,)}
        parts |= {"mlp.fc2.weight": (width, hidden), "mlp.fc2.bias": (width,)}
        parts |= {f"{norm}.{end}": (width,) for norm in ("norm1", "norm2") for end in ("weight", "bias")}
        shapes |= {f"blocks.{place}.{name}": shape for name, shape in parts.items()}
    return ((name, name, shape) for name, shape in shapes.items())
