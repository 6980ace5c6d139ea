"""What a backbone of timm has beyond the plain ResNet or vision transformer that other libraries know.

Modules are looked at, not names: `resnet18` with an option may be no plain ResNet, a name unheard of may be one.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pas_train.exporting.source import Source
from pas_train.weight_layouts import some

STRIDES = (1, 2, 2, 2)


def is_resnet(backbone: nn.Module) -> bool:
    """Whether it is one of timm's ResNets, of whatever kind."""
    from timm.models.resnet import ResNet

    return isinstance(backbone, ResNet)


def vit_extras(backbone: Any) -> list[str]:
    """What the vision transformer has or lacks against the plain one, in words; nothing where it is plain.

    Plain is: patches by one convolution, a class token before them, learned or fixed positions of all tokens, blocks
    of norm, attention, norm, GELU network, then one norm; the embedding is the class token.
    """
    from timm.models.vision_transformer import Attention, Block, VisionTransformer

    registers, patches = getattr(backbone, "num_reg_tokens", 0), backbone.patch_embed
    plain_patches = type(patches).__name__ == "PatchEmbed" and _nothing(patches.norm)
    facts = {
        f"another design ({type(backbone).__name__})": type(backbone) is not VisionTransformer,
        "no class token": backbone.cls_token is None,
        f"{registers} register tokens": bool(registers),
        "no position embedding": backbone.pos_embed is None,
        "a position embedding of the patches alone": bool(getattr(backbone, "no_embed_class", False)),
        "a norm before its blocks": not _nothing(backbone.norm_pre),
        "patches made by more than one convolution": not plain_patches,
        "no last norm": _nothing(backbone.norm) and _nothing(backbone.fc_norm),
        "its last norm after the pooling": not _nothing(backbone.fc_norm),
        f"the pooling {backbone.global_pool or 'none'!r}": backbone.global_pool != "token",
    }  # fmt: skip
    found = [said for said, true in facts.items() if true]
    for block in backbone.blocks:
        inside = type(getattr(block, "attn", None))
        if type(block) is not Block or inside is not Attention:
            return [*found, f"blocks of another kind ({type(block).__name__} with {inside.__name__})"]
    found += _any(backbone, "layer scale", lambda block: not _nothing(block.ls1) or not _nothing(block.ls2))
    found += _any(backbone, "norms of its queries and keys", lambda block: not _nothing(block.attn.q_norm))
    found += _any(
        backbone, "a norm within its attention", lambda block: not _nothing(getattr(block.attn, "norm", None))
    )
    found += _any(backbone, "gated attention", lambda block: getattr(block.attn, "gate", None) is not None)
    found += _any(backbone, "no biases in its projections", lambda block: block.attn.proj.bias is None)
    found += _any(backbone, "a feed-forward network of another kind", lambda block: not _plain_mlp(block.mlp))
    norms = [norm for block in backbone.blocks for norm in (block.norm1, block.norm2)]
    norms += [] if _nothing(backbone.norm) else [backbone.norm]
    if not all(isinstance(norm, nn.LayerNorm) and norm.bias is not None for norm in norms):
        found.append(f"norms of another kind ({type(norms[0]).__name__})")
    elif len({norm.eps for norm in norms}) > 1:
        found.append("norms with different epsilons")
    return found


def resnet_extras(backbone: Any) -> list[str]:
    """What the ResNet has or lacks against the plain one, in words; nothing where it is plain.

    Plain is: a 7x7 convolution and pooling, four stages of one kind of block, halved by the first block's 3x3
    convolution, shortcuts by a 1x1 convolution, ReLU and batch norms; the embedding is the mean of the last map.
    Groups, widths and depths are free.
    """
    if not is_resnet(backbone):
        return [f"another design ({type(backbone).__name__})"]
    stem, pool = backbone.conv1, backbone.maxpool
    blocks = [block for stage in stages(backbone) for block in stage]
    plain_stem = isinstance(stem, nn.Conv2d) and stem.kernel_size == (7, 7) and stem.stride == (2, 2)
    plain_pool = isinstance(pool, nn.MaxPool2d) and (pool.kernel_size, pool.stride, pool.padding) == (3, 2, 1)
    shortcuts = [block.downsample for block in blocks if block.downsample is not None]
    norms = [one for one in backbone.modules() if isinstance(one, nn.modules.batchnorm._NormBase | nn.GroupNorm)]
    facts = {
        "a stem of small convolutions": not plain_stem,
        "no max-pooling after its stem, or another": not plain_pool,
        "blocks of different or other kinds": {type(block).__name__ for block in blocks}
        not in ({"BasicBlock"}, {"Bottleneck"}),
        "squeeze-and-excitation or other attention": any(block.se is not None for block in blocks),
        "anti-aliased strides": any(not _nothing(getattr(block, "aa", None)) for block in blocks),
        "average pooling in its shortcuts": any(not _plain_shortcut(one) for one in shortcuts),
        "activations other than ReLU": any(not isinstance(one, nn.ReLU) for one in _activations(blocks, backbone)),
        "norms other than batch norms": any(type(one) is not nn.BatchNorm2d or one.eps != 1e-5 for one in norms),
        "dilated stages": any(block.conv2.dilation != (1, 1) for block in blocks)
        or tuple(stage[0].stride for stage in stages(backbone)) != STRIDES,
        f"the pooling {backbone.global_pool.pool_type!r}": backbone.global_pool.pool_type != "avg",
    }  # fmt: skip
    return [said for said, true in facts.items() if true]


def stages(resnet: Any) -> list[Any]:
    """The four stages of a ResNet."""
    return [resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4]


def refuse(target: str, owner: str, source: Source, extras: list[str], take: str) -> None:
    """Raises ValueError naming what the backbone has that a library's model has no place for, if there is any.

    take: other targets, for --to.
    """
    if extras and source.small_images:
        extras, take = ["the stem for small images (model.small_images)"], "plain, onnx or torchscript"
    if extras:
        raise ValueError(
            f"--to {target}: {source.architecture} has {', '.join(extras)}, which {owner} has no place for: "
            f"take --to {take}"
        )


def misfit(own: nn.Module, given: Mapping[str, Tensor], aside: str = "\0") -> list[str]:
    """What differs between the names and shapes of a library's model and those of what would be put into it.

    own: may be on the meta device. aside: beginning of names that belong to a classifier.
    """
    shapes = {name: value.shape for name, value in own.state_dict().items() if not name.startswith(aside)}
    theirs = {name: value.shape for name, value in given.items()}
    other = [name for name in {**shapes, **theirs} if shapes.get(name) != theirs.get(name)]
    return [f"tensors of other names or shapes ({some(other)})"] if other else []


def _nothing(module: nn.Module | None) -> bool:
    return module is None or isinstance(module, nn.Identity)


def _any(backbone: Any, said: str, has: Any) -> list[str]:
    return [said] if any(has(block) for block in backbone.blocks) else []


def _plain_mlp(mlp: Any) -> bool:
    """Whether it is two linear layers with biases and the exact GELU between them."""
    plain = type(mlp).__name__ == "Mlp" and isinstance(mlp.fc1, nn.Linear) and _nothing(getattr(mlp, "norm", None))
    if not plain or mlp.fc1.bias is None or mlp.fc2.bias is None:
        return False
    given = torch.linspace(-3, 3, 13)
    with torch.no_grad():  # timm has GELUs of its own
        return torch.allclose(mlp.act(given.clone()), nn.functional.gelu(given), atol=1e-6)


def _plain_shortcut(shortcut: Any) -> bool:
    inside = [one for one in shortcut if not _nothing(one)]
    return len(inside) == 2 and isinstance(inside[0], nn.Conv2d) and inside[0].kernel_size == (1, 1)


def _activations(blocks: list[Any], backbone: Any) -> list[nn.Module]:
    of_blocks = [getattr(block, name, None) for block in blocks for name in ("act1", "act2", "act3")]
    return [one for one in (backbone.act1, *of_blocks) if one is not None]
