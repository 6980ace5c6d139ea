"""`export --to transformers`: a folder that AutoModel and AutoImageProcessor open."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pas_train.exporting.metadata import as_text, write_safetensors
from pas_train.exporting.source import Source
from pas_train.exporting.structure import misfit, refuse, resnet_extras, stages, vit_extras
from pas_train.exporting.target import Target
from pas_train.weight_files import quiet_transformers
from pas_train.weight_layouts import from_transformers

TAKE = "timm, plain, onnx or torchscript"
POOLER = "pooler."


class Transformers(Target):
    """ViTModel or ResNetModel: config.json, model.safetensors, preprocessor_config.json.

    `pooler_output` is the embedding in both. ViTModel's pooler, which AutoModel would fill with random values if the
    file had none, is the identity without activation.

    The image processor is BiT's, the one whose every version takes a short side, a crop and an interpolation. Its crop
    rounds down where ours rounds, so that it begins up to a pixel beside ours.
    """

    name = "transformers"
    title = "transformers"
    library = "transformers"
    install = "pip install transformers"
    loader = "transformers"

    def check(self, source: Source) -> None:
        """Takes plain vision transformers, and plain ResNets whose blocks have the usual widths."""
        if source.transformer:
            rows, columns = source.backbone.patch_embed.patch_size  # type: ignore[union-attr, misc]
            oblong = ["patches that are no squares"] if rows != columns else []
            refuse(self.name, "transformers' ViTModel", source, [*vit_extras(source.backbone), *oblong], TAKE)
        else:
            owner = "transformers' ResNetModel"
            refuse(self.name, owner, source, resnet_extras(source.backbone), TAKE)
            refuse(self.name, owner, source, _unusual_widths(source.backbone), f"torchvision, {TAKE}")
        model = _empty_model(source)
        refuse(self.name, f"transformers' {type(model).__name__}", source, misfit(model, renamed(source, model)), TAKE)

    def write(self, source: Source, folder: Path) -> None:
        """Fills a model of the library and lets it save itself, so that the names in the file are the library's."""
        from safetensors.torch import load

        model = _empty_model(source)
        model.load_state_dict(renamed(source, model), assign=True)
        with quiet_transformers():
            model.save_pretrained(folder, max_shard_size="1000GB")
        file = folder / "model.safetensors"
        write_safetensors(load(file.read_bytes()), file, as_text(source.metadata))
        _image_processor(source).save_pretrained(folder)


def renamed(source: Source, model: Any) -> dict[str, Tensor]:
    """Timm's tensors under the names of transformers' model: the way that such models are read, walked backwards."""
    own: Mapping[str, Tensor] = model.state_dict()
    names = [name for name in own if not name.startswith(POOLER)]
    # Every row is marked with the tensor that it belongs to there: query, key and value are one matrix in timm.
    marks = {name: torch.full(own[name].shape[:1], number) for number, name in enumerate(names)}
    found: dict[str, Tensor] = {}
    for ours, rows in from_transformers(marks, model.config.to_dict()).tensors.items():
        value = source.state.get(ours.removeprefix("backbone."))
        if value is not None and value.shape[:1] == rows.shape:
            for number in rows.unique():
                part = value[rows == number]
                found[names[int(number)]] = part if value.ndim else part[0]
    if source.transformer:
        width = model.config.hidden_size
        found |= {f"{POOLER}dense.weight": torch.eye(width), f"{POOLER}dense.bias": torch.zeros(width)}
    return found


def _empty_model(source: Source) -> Any:
    """The library's model of the backbone's shape, without storage."""
    from transformers import ResNetConfig, ResNetModel, ViTConfig, ViTModel

    backbone: Any = source.backbone
    with torch.device("meta"):
        if not source.transformer:
            return ResNetModel(
                ResNetConfig(
                    embedding_size=backbone.conv1.out_channels,
                    hidden_sizes=[_width(stage[0]) for stage in stages(backbone)],
                    depths=[len(stage) for stage in stages(backbone)],
                    layer_type="bottleneck" if hasattr(backbone.layer1[0], "conv3") else "basic",
                )
            ).eval()
        block, patch = backbone.blocks[0], backbone.patch_embed.patch_size
        return ViTModel(
            ViTConfig(
                hidden_size=backbone.embed_dim,
                num_hidden_layers=len(backbone.blocks),
                num_attention_heads=block.attn.num_heads,
                intermediate_size=block.mlp.fc1.out_features,
                qkv_bias=block.attn.qkv.bias is not None,
                layer_norm_eps=block.norm1.eps,
                image_size=source.image_size,
                patch_size=patch[0],
                pooler_act="linear",
            )
        ).eval()


def _image_processor(source: Source) -> Any:
    """The test transform: short side to S * 256 / 224, bilinear, centre crop S."""
    from transformers import BitImageProcessor

    side = source.image_size
    return BitImageProcessor(
        size={"shortest_edge": round(side * 256 / 224)},
        crop_size={"height": side, "width": side},
        resample=2,  # PIL's bilinear
        image_mean=list(source.mean),
        image_std=list(source.std),
    )


def _width(block: Any) -> int:
    last = getattr(block, "conv3", block.conv2)
    return int(last.out_channels)


def _unusual_widths(backbone: Any) -> list[str]:
    """Groups and widths that ResNetModel's blocks have no setting for."""
    blocks = [block for stage in stages(backbone) for block in stage]
    inner = {block.conv2.in_channels * (4 if hasattr(block, "conv3") else 1) == _width(block) for block in blocks}
    found = ["grouped convolutions"] if any(block.conv2.groups > 1 for block in blocks) else []
    return found if inner == {True} else [*found, "blocks of another inner width"]
