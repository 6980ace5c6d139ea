"""What the targets of OpenMMLab share: which backbones fit, the names that its libraries have, and the checkpoint.

MMPretrain, MMSegmentation and MMDetection build the same ResNets with torchvision's names. The vision transformer of
MMPretrain and that of MMSegmentation differ in the names of attention.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pas_train.checkpoint_io import save_whole
from pas_train.exporting.source import Source
from pas_train.exporting.structure import refuse, resnet_extras, stages, vit_extras
from pas_train.weight_layouts import some

FILE = "backbone.pth"
Library = Literal["mmpretrain", "mmseg", "mmdet"]
TITLES = {"mmpretrain": "MMPretrain", "mmseg": "MMSegmentation", "mmdet": "MMDetection"}
Row = tuple[str, str, tuple[int, ...]]  # the library's name, timm's name, shape

# (blocks of each stage, layers of a block) -> depth, the only ones that the libraries build
DEPTHS: dict[tuple[tuple[int, ...], int], int] = {
    ((2, 2, 2, 2), 2): 18, ((3, 4, 6, 3), 2): 34,
    ((3, 4, 6, 3), 3): 50, ((3, 4, 23, 3), 3): 101, ((3, 8, 36, 3), 3): 152,
}  # fmt: skip
OTHERS = "plain, timm, onnx or torchscript"  # targets that hold every backbone


# What a backbone is, in the numbers that the libraries take.


@dataclass(frozen=True)
class Transformer:
    """The numbers of a plain vision transformer. hidden: of its feed-forward networks. side: of its images."""

    width: int
    depth: int
    heads: int
    hidden: int
    patch: int
    side: int
    eps: float
    qkv_bias: bool

    def rows(self, library: Library) -> Iterator[Row]:
        """Every tensor: the recorded map."""
        width = self.width
        yield "cls_token", "cls_token", (1, 1, width)
        yield "pos_embed", "pos_embed", (1, 1 + (self.side // self.patch) ** 2, width)
        yield "patch_embed.projection.weight", "patch_embed.proj.weight", (width, 3, self.patch, self.patch)
        yield "patch_embed.projection.bias", "patch_embed.proj.bias", (width,)
        for block in range(self.depth):
            for theirs, ours, shape in self._block(library):
                yield f"layers.{block}.{theirs}", f"blocks.{block}.{ours}", shape
        yield "ln1.weight", "norm.weight", (width,)
        yield "ln1.bias", "norm.bias", (width,)

    def _block(self, library: Library) -> Iterator[Row]:
        width, hidden = self.width, self.hidden
        joined, out = (
            ("attn.attn.in_proj_", "attn.attn.out_proj.") if library == "mmseg" else ("attn.qkv.", "attn.proj.")
        )
        yield "ln1.weight", "norm1.weight", (width,)
        yield "ln1.bias", "norm1.bias", (width,)
        yield f"{joined}weight", "attn.qkv.weight", (3 * width, width)
        if self.qkv_bias:
            yield f"{joined}bias", "attn.qkv.bias", (3 * width,)
        yield f"{out}weight", "attn.proj.weight", (width, width)
        if self.qkv_bias or library != "mmseg":  # there it has a bias where the other has one
            yield f"{out}bias", "attn.proj.bias", (width,)
        yield "ln2.weight", "norm2.weight", (width,)
        yield "ln2.bias", "norm2.bias", (width,)
        yield "ffn.layers.0.0.weight", "mlp.fc1.weight", (hidden, width)
        yield "ffn.layers.0.0.bias", "mlp.fc1.bias", (hidden,)
        yield "ffn.layers.1.weight", "mlp.fc2.weight", (width, hidden)
        yield "ffn.layers.1.bias", "mlp.fc2.bias", (width,)


@dataclass(frozen=True)
class Residual:
    """blocks: of each stage. layers: of a block, 2 or 3. base: planes of the first stage. groups: 1, or a ResNeXt's."""

    blocks: tuple[int, ...]
    layers: int
    stem: int
    base: int
    groups: int
    group_width: int

    @property
    def depth(self) -> int | None:
        """In the name of a ResNet; None for one that has none."""
        return DEPTHS.get((self.blocks, self.layers))

    @property
    def channels(self) -> list[int]:
        """Of the map of each stage."""
        return [self.base * 2**stage * (1 if self.layers == 2 else 4) for stage in range(len(self.blocks))]

    def rows(self, library: Library) -> Iterator[Row]:
        """Every tensor; the names are timm's."""
        for name, shape in self._convolutions():
            yield f"{name}.weight", f"{name}.weight", shape
            norm = re.sub(r"conv(\d)$", r"bn\1", name).replace("downsample.0", "downsample.1")
            for end in ("weight", "bias", "running_mean", "running_var"):
                yield f"{norm}.{end}", f"{norm}.{end}", shape[:1]
            yield f"{norm}.num_batches_tracked", f"{norm}.num_batches_tracked", ()

    def _convolutions(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(name, shape)."""
        yield "conv1", (self.stem, 3, 7, 7)
        given = self.stem
        for stage, (count, told) in enumerate(zip(self.blocks, self.channels, strict=True)):
            planes = self.base * 2**stage
            inner = planes if self.groups == 1 else planes * self.group_width // 64 * self.groups
            for block in range(count):
                name = f"layer{stage + 1}.{block}"
                if self.layers == 2:
                    yield f"{name}.conv1", (planes, given, 3, 3)
                    yield f"{name}.conv2", (planes, planes, 3, 3)
                else:
                    yield f"{name}.conv1", (inner, given, 1, 1)
                    yield f"{name}.conv2", (inner, inner // self.groups, 3, 3)
                    yield f"{name}.conv3", (told, inner, 1, 1)
                if not block and (stage or given != told):
                    yield f"{name}.downsample.0", (told, given, 1, 1)
                given = told


Shape = Transformer | Residual


# Which backbones fit.


def describe(source: Source, library: Library) -> Shape:
    """What the library is asked for. Raises ValueError saying what it has no place for."""
    backbone: Any = source.backbone
    title = TITLES[library]
    shape: Shape
    if source.transformer:
        refuse(library, f"{title}'s VisionTransformer", source, vit_extras(backbone), OTHERS)
        shape = _transformer(backbone)
        extras = _uneven(backbone, shape)
    else:
        refuse(library, f"{title}'s ResNet", source, resnet_extras(backbone), OTHERS)
        shape = _residual(backbone)
        extras = _unnamed(shape)
    expected = {ours: size for _, ours, size in shape.rows(library)}
    held = {name: tuple(value.shape) for name, value in source.state.items()}
    wrong = [name for name in {**expected, **held} if expected.get(name) != held.get(name)]
    refuse(
        library,
        title,
        source,
        extras or ([f"tensors of other names or shapes ({some(wrong)})"] if wrong else []),
        OTHERS,
    )
    return shape


def _transformer(vit: Any) -> Transformer:
    block, patches = vit.blocks[0], vit.patch_embed
    return Transformer(
        width=vit.embed_dim,
        depth=len(vit.blocks),
        heads=block.attn.num_heads,
        hidden=block.mlp.fc1.out_features,
        patch=patches.patch_size[0],
        side=patches.img_size[0],
        eps=block.norm1.eps,
        qkv_bias=block.attn.qkv.bias is not None,
    )


def _uneven(vit: Any, shape: Transformer) -> list[str]:
    """What no shape of a tensor shows, in words."""
    patches, heads = vit.patch_embed, {block.attn.num_heads for block in vit.blocks}
    facts = {
        "images or patches that are not square": {*patches.img_size, *patches.patch_size} != {shape.side, shape.patch},
        "attention heads of unequal number or width": heads != {shape.heads} or bool(shape.width % shape.heads),
    }
    return [said for said, true in facts.items() if true]


def _residual(resnet: Any) -> Residual:
    first = resnet.layer1[0]
    layers = 3 if hasattr(first, "conv3") else 2
    return Residual(
        blocks=tuple(len(stage) for stage in stages(resnet)),
        layers=layers,
        stem=resnet.bn1.num_features,
        base=first.bn3.num_features // 4 if layers == 3 else first.bn1.num_features,
        groups=first.conv2.groups,
        group_width=first.conv2.out_channels // first.conv2.groups,
    )


def _unnamed(shape: Residual) -> list[str]:
    """What keeps it from being a ResNet-18, 34, 50, 101 or 152, or a ResNeXt of such a depth."""
    if shape.depth is None:
        counts = ", ".join(map(str, shape.blocks))
        return [f"{counts} blocks of {shape.layers} layers in its stages, not those of a ResNet-18, 34, 50, 101 or 152"]
    if shape.groups > 1 and shape.base != 64:
        return [f"groups and {shape.base} planes in its first stage, where a ResNeXt has 64"]
    return []


# Tensors.


def rename(name: str, parts: Mapping[str, str]) -> str:
    """The library's name of a tensor. parts: timm's part of a name -> theirs, both with what stands before the rest."""
    block = re.match(r"blocks\.(\d+)\.", name)
    start, rest = (f"layers.{block[1]}.", name[block.end() :]) if block else ("", name)
    for ours, theirs in parts.items():
        if rest.startswith(ours):
            return start + theirs + rest.removeprefix(ours)
    return start + rest


def write_checkpoint(source: Source, folder: Path, parts: Mapping[str, str], prefix: str = "") -> None:
    """Writes backbone.pth: `state_dict` in the library's names, each behind a prefix, and `meta`."""
    state = {prefix + rename(name, parts): value.contiguous().clone() for name, value in source.state.items()}
    save_whole({"state_dict": state, "meta": dict(source.metadata)}, folder / FILE)


def read_checkpoint(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of backbone.pth, without the prefix of their names."""
    state = torch.load(folder / FILE, map_location="cpu", weights_only=True)["state_dict"]
    return {name.removeprefix(prefix): value for name, value in state.items()}


def recorded(source: Source, library: Library) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the library's model."""
    return {theirs: shape for theirs, _, shape in describe(source, library).rows(library)}


def restore(tensors: Mapping[str, Tensor], source: Source, library: Library) -> dict[str, Tensor]:
    """The tensors under timm's names; those that are not there are left out."""
    rows = describe(source, library).rows(library)
    return {ours: tensors[theirs] for theirs, ours, _ in rows if theirs in tensors}
