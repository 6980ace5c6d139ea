"""The backbone as timm's model: `timm.create_model("local-dir:FOLDER", pretrained=True)`; with classes: num_classes=N.

Without "local-dir:", which old timm lacks: `timm.create_model(ARCHITECTURE, pretrained=True, pretrained_cfg_overlay=
dict(file="FOLDER/model.safetensors", num_classes=0, custom_load=False))`, with config.json's model_args behind it.
"""

import timm


def load(folder):
    return timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()


def features(model, images):
    found = model.forward_features(images)
    told = {"embedding": model.forward_head(found)}
    if isinstance(model, timm.models.vision_transformer.VisionTransformer):
        rows, columns = model.patch_embed.grid_size
        found = found[:, -rows * columns :].transpose(1, 2).reshape(len(images), -1, rows, columns)
    return dict(told, map=found)
