"""Backbones by timm name, with the paper's vision transformer and small-image ResNets as options."""

import difflib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def sincos_position_embedding(dim: int, grid: int) -> Tensor:
    """Fixed 2-D sine-cosine position embedding [1, 1 + grid * grid, dim], float32; zeros for the class token.

    For a patch in row r and column c: sin and cos of r * w, then of c * w, with w_i = 10000 ** (-i / (dim / 4)).
    Rows come first, as in MoCo v3's published checkpoints.
    """
    if dim % 4:
        raise ValueError(f"The sine-cosine position embedding needs a width divisible by 4, got {dim}")
    quarter = dim // 4
    omega = 1.0 / 10000 ** (torch.arange(quarter, dtype=torch.float32) / quarter)
    row, column = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    by_row = row.flatten().float()[:, None] * omega  # [grid * grid, dim / 4]
    by_column = column.flatten().float()[:, None] * omega
    patches = torch.cat([by_row.sin(), by_row.cos(), by_column.sin(), by_column.cos()], dim=1)
    return torch.cat([torch.zeros(1, dim), patches])[None]


def is_transformer(backbone: nn.Module) -> bool:
    """True for timm's vision transformers (the heads of MoCo v3 depend on it)."""
    from timm.models.vision_transformer import VisionTransformer

    return isinstance(backbone, VisionTransformer)


def has_batch_norm(backbone: nn.Module) -> bool:
    """True if the module's output for an image depends on the other images of the batch."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in backbone.modules())


def build_backbone(
    name: str,
    image_size: int = 224,
    fixed_position: bool = True,
    frozen_patches: bool = True,
    paper_init: bool = True,
    small_images: bool = False,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A randomly initialised timm model without classifier: images [N, 3, S, S] -> embeddings [N, D].

    fixed_position, frozen_patches, paper_init: the three changes of MoCo v3 to a vision transformer (appendix of the
    paper); no effect on other models. small_images: for ResNets, a 3x3 stem with stride 1 and no max-pooling, as is
    usual for 32 px. options: further keyword arguments of the timm model, such as {"num_heads": 12}.
    Draws from torch's global generator: fork and seed it around the call. D is `backbone.num_features`.
    Raises: ValueError naming `model.backbone` for an unknown name or options that the model does not take.
    """
    import timm
    from timm.models import model_entrypoint

    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=4)
        hint = f"; close matches: {', '.join(close)}" if close else ""
        raise ValueError(f"model.backbone: timm has no model {name!r}{hint}. `timm.list_models()` lists all names.")
    family = model_entrypoint(name).__module__.rsplit(".", 1)[-1]
    settings: dict[str, Any] = {"num_classes": 0, **(options or {})}
    if family in ("vision_transformer", "deit"):
        settings.setdefault("img_size", image_size)
    if small_images and family != "resnet":
        raise ValueError(f"model.small_images: only for timm's ResNets, {name!r} is from {family}; set it to false")
    try:
        backbone = timm.create_model(name, pretrained=False, **settings)
    except (TypeError, AssertionError) as error:
        given = f" with model.backbone_options {dict(options)}" if options else ""
        raise ValueError(
            f"model.backbone: {name!r}{given} cannot be built for {image_size} px: {error}. Use an image size that "
            "the patch size divides, and options that timm's model takes."
        ) from error
    if is_transformer(backbone):
        patch = backbone.patch_embed.patch_size[0]  # type: ignore[union-attr, index]
        if image_size % patch:  # timm would leave out the right and lower edges
            raise ValueError(f"model.image_size: {name!r} cuts {patch} px patches, which do not divide {image_size}")
        _prepare_transformer(backbone, fixed_position, frozen_patches, paper_init)
    elif small_images:
        _use_small_stem(backbone)
    return backbone


def _prepare_transformer(vit: Any, fixed_position: bool, frozen_patches: bool, paper_init: bool) -> None:
    """Applies MoCo v3's initialisation, position embedding and frozen patch projection to a timm transformer."""
    if paper_init:
        for name, module in vit.named_modules():
            if not isinstance(module, nn.Linear):
                continue
            if name.endswith("qkv"):  # query, key and value are three matrices for the fan
                bound = math.sqrt(6 / (module.out_features // 3 + module.in_features))
                nn.init.uniform_(module.weight, -bound, bound)
            else:
                nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if vit.cls_token is not None:
            nn.init.normal_(vit.cls_token, std=1e-6)
        patches = vit.patch_embed.proj
        bound = math.sqrt(6 / (patches.in_channels * math.prod(patches.kernel_size) + vit.embed_dim))
        nn.init.uniform_(patches.weight, -bound, bound)
        if patches.bias is not None:
            nn.init.zeros_(patches.bias)
    if fixed_position and vit.pos_embed is not None:
        vit.pos_embed.data.copy_(_positions(vit))
        vit.pos_embed.requires_grad_(False)
    if frozen_patches:
        vit.patch_embed.proj.requires_grad_(False)


def _positions(vit: Any) -> Tensor:
    rows, columns = vit.patch_embed.grid_size
    if rows != columns:
        raise ValueError(f"model.fixed_position: only square images, the patch grid is {rows} x {columns}")
    positions = sincos_position_embedding(vit.embed_dim, rows)[:, 1:]
    prefix = vit.pos_embed.shape[1] - positions.shape[1]  # class and register tokens, where they have a position
    return torch.cat([positions.new_zeros(1, prefix, vit.embed_dim), positions], dim=1)


def _use_small_stem(resnet: Any) -> None:
    """Replaces a ResNet's 7x7 stride-2 stem and max-pooling, which leave 8x8 cells of a 32 px image."""
    width = resnet.bn1.num_features
    resnet.conv1 = nn.Conv2d(3, width, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(resnet.conv1.weight, mode="fan_out", nonlinearity="relu")
    resnet.maxpool = nn.Identity()


def backbone_of(model: nn.Module) -> nn.Module:
    """The part of a method that is evaluated and exported."""
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise ValueError(f"model: {type(model).__name__} has no backbone to evaluate; use a class of pas_train.methods")
    return backbone
