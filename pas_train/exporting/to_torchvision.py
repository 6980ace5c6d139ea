"""`export --to torchvision`: a state dict of torchvision's ResNet or VisionTransformer."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pas_train.checkpoint_io import save_whole
from pas_train.exporting.source import Source
from pas_train.exporting.structure import misfit, refuse, resnet_extras, stages, vit_extras
from pas_train.exporting.target import Target

TAKE = "timm, plain, onnx or torchscript"

# Of a vision transformer's names, timm's and torchvision's; a ResNet's are the same in both.
ENDS = {
    "cls_token": "class_token",
    "pos_embed": "encoder.pos_embedding",
    "patch_embed.proj.weight": "conv_proj.weight",
    "patch_embed.proj.bias": "conv_proj.bias",
    "norm.weight": "encoder.ln.weight",
    "norm.bias": "encoder.ln.bias",
}
PARTS = {
    "norm1.": "ln_1.",
    "attn.qkv.": "self_attention.in_proj_",
    "attn.proj.": "self_attention.out_proj.",
    "norm2.": "ln_2.",
    "mlp.fc1.": "mlp.0.",
    "mlp.fc2.": "mlp.3.",
}


class Torchvision(Target):
    """backbone.pth, a state dict without classifier, and model.json, the arguments of torchvision's class."""

    name = "torchvision"
    title = "torchvision"
    library = "torchvision"
    install = "pip install torchvision"
    loader = "torchvision"

    def check(self, source: Source) -> None:
        """Takes plain ResNets of torchvision's widths, and plain vision transformers."""
        if source.transformer:
            owner, aside = "torchvision's VisionTransformer", "heads."
            refuse(self.name, owner, source, vit_extras(source.backbone), TAKE)
            refuse(self.name, owner, source, _unusual_vit(source.backbone), f"transformers, {TAKE}")
        else:
            owner, aside = "torchvision's ResNet", "fc."
            refuse(self.name, owner, source, resnet_extras(source.backbone), TAKE)
        refuse(self.name, owner, source, misfit(_empty_model(source), renamed(source), aside), f"transformers, {TAKE}")

    def write(self, source: Source, folder: Path) -> None:
        """Writes both files."""
        save_whole({name: value.clone() for name, value in renamed(source).items()}, folder / "backbone.pth")
        (folder / "model.json").write_text(json.dumps(arguments(source), indent=1) + "\n")


def renamed(source: Source) -> dict[str, Tensor]:
    """Timm's tensors under torchvision's names."""
    return {_name(name) if source.transformer else name: value for name, value in source.state.items()}


def _name(name: str) -> str:
    match = re.fullmatch(r"blocks\.(\d+)\.(.+\.)(weight|bias)", name)
    if match is None:
        return ENDS.get(name, name)
    block, part, end = match.groups()
    return f"encoder.layers.encoder_layer_{block}.{PARTS.get(part, part)}{end}"


def arguments(source: Source) -> dict[str, Any]:
    """The class of torchvision.models and its arguments."""
    backbone: Any = source.backbone
    if source.transformer:
        block = backbone.blocks[0]
        return {
            "class": "VisionTransformer",
            "image_size": source.image_size,
            "patch_size": backbone.patch_embed.patch_size[0],
            "num_layers": len(backbone.blocks),
            "num_heads": block.attn.num_heads,
            "hidden_dim": backbone.embed_dim,
            "mlp_dim": block.mlp.fc1.out_features,
        }
    block = backbone.layer1[0]
    told = {"class": "ResNet", "block": type(block).__name__, "layers": [len(stage) for stage in stages(backbone)]}
    if told["block"] == "BasicBlock":
        return told
    groups = block.conv2.groups
    return {**told, "groups": groups, "width_per_group": block.conv2.out_channels // groups}


def _empty_model(source: Source) -> nn.Module:
    """The library's model, without storage."""
    import torchvision

    given = arguments(source)
    made = getattr(torchvision.models, given.pop("class"))
    if "block" in given:
        given["block"] = getattr(torchvision.models.resnet, given["block"])
    with torch.device("meta"):
        model: nn.Module = made(**given)
    return model


def _unusual_vit(backbone: Any) -> list[str]:
    """What torchvision's transformer has no setting for."""
    block, (rows, columns) = backbone.blocks[0], backbone.patch_embed.patch_size
    facts = {
        "no biases of its queries, keys and values": block.attn.qkv.bias is None,
        f"norms with the epsilon {block.norm1.eps:g}": block.norm1.eps != 1e-6,
        "patches that are no squares": rows != columns,
    }
    return [said for said, true in facts.items() if true]
