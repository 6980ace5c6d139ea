"""The texts of the configurations beside weights that are exported to detectron2."""

from dataclasses import dataclass
from typing import Any

from pas_train.exporting.source import Source
from pas_train.exporting.structure import stages

# Blocks of the stages -> what detectron2's yaml calls them, with basic blocks and with bottlenecks.
DEPTHS: dict[tuple[int, ...], tuple[int | None, int | None]] = {
    (2, 2, 2, 2): (18, None), (3, 4, 6, 3): (34, 50), (3, 4, 23, 3): (None, 101), (3, 8, 36, 3): (None, 152)
}  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """What detectron2 is told to make a stage. bottleneck: channels of its 3x3 convolutions; None of basic blocks."""

    blocks: int
    stride: int
    given: int
    channels: int
    bottleneck: int | None
    groups: int


def stages_of(resnet: Any) -> list[Stage]:
    """The four stages of timm's ResNet."""
    given, found = resnet.conv1.out_channels, []
    for blocks in stages(resnet):
        first = blocks[0]
        wide = hasattr(first, "conv3")
        channels = (first.conv3 if wide else first.conv2).out_channels
        bottleneck = first.conv2.out_channels if wide else None
        found.append(Stage(len(blocks), first.stride, given, channels, bottleneck, first.conv2.groups))
        given = channels
    return found


def lazy_config(source: Source) -> str:
    """backbone.py."""
    lines, model = _lazy_transformer(source) if source.transformer else _lazy_resnet(source)
    head = f'"""{source.architecture} of {source.image_size} px for detectron2, a LazyConfig."""'
    colours = f'pixel_mean={_scaled(source.mean)}, pixel_std={_scaled(source.std)}, input_format="RGB"'
    return head + "\n\n" + "\n".join(lines) + f"\n\n{model}\ncolours = dict({colours})  # of values from 0 to 255\n"


def _lazy_resnet(source: Source) -> tuple[list[str], str]:
    net: Any = source.backbone
    told = stages_of(net)
    block = "BasicBlock" if told[0].bottleneck is None else "BottleneckBlock"
    text = (
        f'    stem=L(BasicStem)(in_channels=3, out_channels={net.conv1.out_channels}, norm="FrozenBN"),\n    stages=[\n'
    )
    for stage in told:
        inner = (
            "" if stage.bottleneck is None else f"bottleneck_channels={stage.bottleneck}, num_groups={stage.groups}, "
        )
        strides = [stage.stride] + [1] * (stage.blocks - 1)
        text += (
            f"        L(ResNet.make_stage)(\n            block_class={block}, num_blocks={stage.blocks}, "
            f"stride_per_block={strides},\n            in_channels={stage.given}, out_channels={stage.channels}, "
            f'{inner}norm="FrozenBN",\n        ),\n'
        )
    lines = [
        "from detectron2.config import LazyCall as L",
        "from detectron2.modeling.backbone import BasicStem, ResNet",
        f"from detectron2.modeling.backbone.resnet import {block}",
    ]
    maps = 'out_features=["res2", "res3", "res4", "res5"]'
    return lines, f"backbone = L(ResNet)(\n{text}    ],\n    {maps},\n)"


def _lazy_transformer(source: Source) -> tuple[list[str], str]:
    vit: Any = source.backbone
    first, width = vit.blocks[0], vit.embed_dim
    hidden = first.mlp.fc1.out_features
    ratio = hidden / width if int(width * (hidden / width)) == hidden else (hidden + 0.5) / width
    side = vit.patch_embed.grid_size[0] * vit.patch_embed.patch_size[0]
    settings = {
        "img_size": side, "pretrain_img_size": side, "patch_size": vit.patch_embed.patch_size[0], "embed_dim": width,
        "depth": len(vit.blocks), "num_heads": first.attn.num_heads, "mlp_ratio": ratio,
        "qkv_bias": first.attn.qkv.bias is not None,
        "pretrain_use_cls_token": vit.pos_embed.shape[1] > vit.patch_embed.num_patches,
    }  # fmt: skip
    text = "".join(f"    {name}={value},\n" for name, value in settings.items())
    text += f'    norm_layer=partial(nn.LayerNorm, eps={first.norm1.eps}),\n    out_feature="last_feat",\n'
    lines = [
        "from functools import partial\n",
        "from detectron2.config import LazyCall as L",
        "from detectron2.modeling import ViT",
        "from torch import nn",
    ]
    return lines, f"backbone = L(ViT)(\n{text})"


def _depth(told: list[Stage], stem: int) -> int | None:
    """By which detectron2's yaml names a ResNet; None where it cannot."""
    wide = told[0].bottleneck is not None
    depth = DEPTHS.get(tuple(stage.blocks for stage in told), (None, None))[wide]
    base, inner = (256 if wide else 64), told[0].bottleneck or 0
    usual = [(base * 2**place, inner * 2**place or None) for place in range(4)]
    return depth if depth and stem == 64 and [(one.channels, one.bottleneck) for one in told] == usual else None


def yaml_settings(source: Source) -> dict[str, Any] | None:
    """What config.yaml says of a ResNet; None of one that detectron2's yaml cannot name."""
    net: Any = source.backbone
    told = stages_of(net)
    depth = _depth(told, net.conv1.out_channels)
    if depth is None:
        return None
    first = told[0]
    resnet: dict[str, Any] = {"DEPTH": depth, "RES2_OUT_CHANNELS": first.channels, "STRIDE_IN_1X1": False}
    if first.bottleneck is not None:
        resnet |= {"NUM_GROUPS": first.groups, "WIDTH_PER_GROUP": first.bottleneck // first.groups}
    colours = {"PIXEL_MEAN": _scaled(source.mean), "PIXEL_STD": _scaled(source.std)}
    return {"MODEL": colours | {"RESNETS": resnet}, "INPUT": {"FORMAT": "RGB"}}


def _scaled(colours: Any) -> list[float]:
    return [round(float(value) * 255, 4) for value in colours]
