"""Which of timm's architectures some tensors are of, by their names and shapes."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pas_train.backbones import is_transformer

# Of two that have the same names and shapes, the first is meant.
KNOWN = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet26", "wide_resnet50_2", "wide_resnet101_2",
    "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "resnet10t", "resnet14t", "resnet18d", "resnet26d",
    "resnet26t", "resnet34d", "resnet50d", "resnet101d", "vit_tiny_patch16_224", "vit_small_patch16_224",
    "vit_base_patch16_224", "vit_large_patch16_224", "vit_small_patch8_224", "vit_base_patch8_224",
    "vit_small_patch32_224", "vit_base_patch32_224", "vit_large_patch32_224", "vit_huge_patch14_224",
    "vit_large_patch14_224", "vit_small_patch14_dinov2", "vit_base_patch14_dinov2", "vit_large_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2", "vit_base_patch14_reg4_dinov2", "vit_large_patch14_reg4_dinov2",
    "vit_base_patch16_clip_224", "vit_large_patch14_clip_224",
)  # fmt: skip
WIDTHS = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge"}
# Not in old files, and of another shape where the images are of another size.
_PASSED_OVER = ("num_batches_tracked", "pos_embed")


def infer(tensors: Mapping[str, Tensor]) -> str | None:
    """The name in timm of a backbone without classifier, or None. tensors: by the names in timm."""
    hint, wanted = _hint(tensors), _shapes(tensors)
    for name in KNOWN if hint else ():
        if re.search(hint, name) and _shapes(skeleton(name).state_dict()) == wanted:
            return name
    return None


def _hint(tensors: Mapping[str, Tensor]) -> str:
    """What the name has in it; to build a model for every name would take half a minute."""
    patches = tensors.get("patch_embed.proj.weight")
    if patches is not None and patches.ndim == 4:
        size = WIDTHS.get(patches.shape[0])
        return f"vit_{size}_patch{patches.shape[-1]}_" if size else ""
    blocks = {name.rpartition(".conv")[0] for name in tensors if re.match(r"layer\d+\.\d+\.conv\d", name)}
    convolutions = 3 if "layer1.0.conv3.weight" in tensors else 2
    return rf"^(wide_)?resne[x]?t{convolutions * len(blocks) + 2}(\D|$)"  # its layers: these, the first and the last


def native_size(tensors: Mapping[str, Tensor], name: str, options: Mapping[str, Any]) -> int:
    """Side in pixels of the images that some tensors are for: by a position embedding, else the architecture's."""
    backbone: Any = skeleton(name, options)
    positions, patches = tensors.get("pos_embed"), tensors.get("patch_embed.proj.weight")
    if positions is not None and patches is not None and positions.ndim == 3:
        own = getattr(backbone, "pos_embed", None)
        rows, columns = backbone.patch_embed.grid_size
        before = own.shape[1] - rows * columns if own is not None else 1
        return math.isqrt(max(1, positions.shape[1] - before)) * patches.shape[-1]
    return int((getattr(backbone, "pretrained_cfg", {}).get("input_size") or (3, 224, 224))[-1])


def check_size(module: Any, size: int, native: int) -> None:
    """Raises ValueError for images that the backbone cannot take."""
    patch = module.patch_embed.patch_size[0] if is_transformer(module) else 1
    if size < 1 or size % patch:
        choices: Iterable[int] = {max(1, math.floor(size / patch)) * patch, math.ceil(max(size, 1) / patch) * patch}
        raise ValueError(
            f"--image_size {size}: the backbone cuts patches of {patch} px, which do not divide it; take "
            f"{' or '.join(map(str, sorted(choices)))}, or leave it out: it was trained with {native}"
        )


def skeleton(name: str, options: Mapping[str, Any] | None = None) -> nn.Module:
    """A model without values."""
    import timm

    with torch.device("meta"):
        return timm.create_model(name, **{"num_classes": 0, **(options or {})})


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items() if not name.endswith(_PASSED_OVER)}
