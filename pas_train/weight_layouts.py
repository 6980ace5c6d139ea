"""The layouts in which weights are published, and their keys in ours.

Ours are a method's: `backbone.` before the keys of timm's model, `projector.`, `predictor.`, and `momentum_` before
those of a momentum encoder.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

# What belongs to a classifier, or to another task of the same network; never loaded, and named.
LEFT_OUT = ("head.", "heads.", "head_dist.", "fc.", "classifier.", "pooler.", "pre_logits.", "embeddings.mask_token")
# What other projects put their weights into, and before the names of their modules.
CONTAINERS = ("state_dict", "model", "teacher")
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")

MOCO = "official MoCo v3"
SHOWN = 3  # keys in a message
MOCO_HEADS = {384: 12, 768: 12}  # attention heads of its ViT-S and ViT-B by width: no tensor shows their number
_MOCO_KEY = re.compile(r"(?:module\.)?(?:(base|momentum)_encoder|(predictor))\.(?:(head|fc)\.)?(.+)")

_VIT_ENDS = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
# Both namings of transformers: that of its versions before 5, and the present one.
_VIT_PARTS = {
    "layernorm_before": "norm1", "layernorm_after": "norm2", "norm1": "norm1", "norm2": "norm2",
    "attention.output.dense": "attn.proj", "attention.o_proj": "attn.proj",
    "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
}  # fmt: skip
_VIT_QKV = {
    "attention.attention.query": "q", "attention.attention.key": "k", "attention.attention.value": "v",
    "attention.q_proj": "q", "attention.k_proj": "k", "attention.v_proj": "v",
}  # fmt: skip
_RESNET = re.compile(
    r"encoder\.stages\.(\d+)\.layers\.(\d+)\.(shortcut|layer\.(\d+))\.(convolution|normalization)\.(.+)"
)


@dataclass
class Published:
    """Weights as they were published, under our names.

    tensors: by name in a method's state dict. left_out: keys of theirs that no part of a method takes. layout: in
    words. heads: attention heads, where known. mean, std: of the colours in [0, 1] that they were trained with, where
    known.
    """

    tensors: dict[str, Tensor]
    layout: str
    left_out: list[str] = field(default_factory=list)
    heads: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def some(names: Sequence[str]) -> str:
    """The first of some keys, for a message."""
    shown = ", ".join(one.removeprefix("backbone.") for one in names[:SHOWN])
    return f"{shown}, ..." if len(names) > SHOWN else shown


def convert(content: Any) -> Published:
    """What a file of weights holds. Raises ValueError, without the file's name, where it holds none."""
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds a {type(content).__name__}, not tensors by name")
    state = content
    for name in CONTAINERS:
        if isinstance(state.get(name), Mapping):
            state = state[name]
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"it holds no tensors by name, but {', '.join(map(str, list(state)[:4])) or 'nothing'}")
    if any(_MOCO_KEY.fullmatch(name) and "encoder." in name for name in tensors):
        return from_moco(tensors)
    if "global_step" in content and any(name.startswith("backbone.") for name in tensors):
        return _own(tensors, content.get("hyper_parameters") or {})
    return from_backbone(tensors)


def from_moco(tensors: Mapping[str, Tensor]) -> Published:
    """The official MoCo v3's: base_encoder, momentum_encoder and predictor, the projectors in place of classifiers."""
    found: dict[str, Tensor] = {}
    left_out = []
    for name, value in tensors.items():
        match = _MOCO_KEY.fullmatch(name)
        if match is None:
            left_out.append(name)
            continue
        encoder, predictor, classifier, rest = match.groups()
        part = "predictor" if predictor else "projector" if classifier else "backbone"
        found[f"{'momentum_' if encoder == 'momentum' else ''}{part}.{rest}"] = value
    token = found.get("backbone.cls_token")
    heads = MOCO_HEADS.get(token.shape[-1]) if token is not None else None
    return Published(found, MOCO, left_out, heads)


def _own(tensors: dict[str, Tensor], settings: Mapping[str, Any]) -> Published:
    """A checkpoint of one of our trainings. settings: of its `model` section."""
    import timm

    name, heads = settings.get("backbone"), None
    if isinstance(name, str) and timm.is_model(name):
        heads = heads_of(name, settings.get("backbone_options") or {})
    mean, std = (tuple(settings[name]) if settings.get(name) else None for name in ("mean", "std"))
    return Published(tensors, "a training of pas_train", heads=heads, mean=mean, std=std)


def heads_of(name: str, options: Mapping[str, Any]) -> int | None:
    """Attention heads of a timm model's first block; None where it has none."""
    import timm

    with torch.device("meta"):
        return attention_heads(timm.create_model(name, **{**options, "num_classes": 0}))


def attention_heads(backbone: Any) -> int | None:
    """Attention heads of a backbone's first block; None where it has none."""
    blocks = getattr(backbone, "blocks", None)
    heads = getattr(getattr(blocks[0], "attn", None), "num_heads", None) if blocks else None
    return heads if isinstance(heads, int) else None


def from_backbone(tensors: Mapping[str, Tensor]) -> Published:
    """A backbone's alone, with or without a classifier, in timm's or torchvision's names."""
    tensors = _without_prefixes(dict(tensors))
    if any("embeddings.patch_embeddings." in name or name.startswith("embedder.embedder.") for name in tensors):
        raise ValueError("it has transformers' layout without its config.json: give the folder that holds both")
    found, left_out = _split(tensors)
    return Published(found, "a backbone's state dict", left_out)


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    again = True
    while again:
        again = False
        for prefix in PREFIXES:
            inside = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            rest = [name for name in tensors if not name.startswith(prefix)]
            # What stands beside the wrapped backbone may only be what is left out anyway.
            if inside and all(name.startswith(LEFT_OUT) for name in rest):
                tensors, again = {**{name: tensors[name] for name in rest}, **inside}, True
    return tensors


def _split(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """(tensors under our names, keys that are left out)."""
    left_out = [name for name in tensors if name.startswith(LEFT_OUT)]
    return {f"backbone.{name}": value for name, value in tensors.items() if name not in left_out}, left_out


def from_transformers(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Published:
    """The state dict of transformers' ViTModel (ViT, DINO, MAE, MSN), Dinov2Model or ResNetModel.

    Keys that are not understood keep their names, so that the comparison with the backbone names them. A ViT's
    layer_norm_eps, 1e-12 there and 1e-6 in timm, is no tensor and not taken over: where activations vary as they do in
    trained networks, features differ by less than 1e-5.
    Raises ValueError, without the name of the weights, for another architecture.
    """
    kind = config.get("model_type")
    activation = config.get("hidden_act")
    if kind in ("vit", "vit_mae", "vit_msn", "dinov2"):
        if activation != "gelu":
            raise ValueError(f"its activation is {activation}, that of timm's transformers is gelu")
        converted = _vit(tensors)
        heads = config.get("num_attention_heads")
    elif kind == "resnet":
        if activation != "relu" or config.get("downsample_in_bottleneck") or config.get("downsample_in_first_stage"):
            raise ValueError(
                "timm's ResNets take relu, downsample_in_bottleneck false and downsample_in_first_stage false; its "
                f"config.json has {activation}, {config.get('downsample_in_bottleneck')} and "
                f"{config.get('downsample_in_first_stage')}"
            )
        converted, heads = {_resnet_name(name): value for name, value in tensors.items()}, None
    else:
        raise ValueError(
            f"it is a {kind} of transformers; known are vit (as DINO's), vit_mae, vit_msn, dinov2 and resnet. Many "
            "others are in timm under their own names: model.weights: timm"
        )
    found, left_out = _split(converted)
    return Published(found, f"transformers' {kind}", left_out, heads)


def _vit(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    joined: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        match = re.fullmatch(r"(?:encoder\.)?layers?\.(\d+)\.(.+)\.(weight|bias|lambda1)", name)
        if match is None:
            found[_VIT_ENDS.get(name, name)] = value
            continue
        block, part, end = match.groups()
        if part in _VIT_QKV:
            joined.setdefault(f"blocks.{block}.attn.qkv.{end}", {})[_VIT_QKV[part]] = value
        elif end == "lambda1" and part.startswith("layer_scale"):
            found[f"blocks.{block}.ls{part[-1]}.gamma"] = value
        elif part in _VIT_PARTS:
            found[f"blocks.{block}.{_VIT_PARTS[part]}.{end}"] = value
        else:
            found[name] = value
    for name, parts in joined.items():  # one matrix in timm
        if set(parts) == set("qkv"):
            found[name] = torch.cat([parts[one] for one in "qkv"])
        else:
            found |= {f"{name}.{one}": value for one, value in parts.items()}
    return found


def _resnet_name(name: str) -> str:
    stem = {"embedder.embedder.convolution.": "conv1.", "embedder.embedder.normalization.": "bn1."}
    for theirs, ours in stem.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    match = _RESNET.fullmatch(name)
    if match is None:
        return name
    stage, layer, where, number, kind, end = match.groups()
    if where == "shortcut":
        return f"layer{int(stage) + 1}.{layer}.downsample.{0 if kind == 'convolution' else 1}.{end}"
    return f"layer{int(stage) + 1}.{layer}.{'conv' if kind == 'convolution' else 'bn'}{int(number) + 1}.{end}"
