"""The backbone as timm's model: `from load import load; backbone = load(".")`. Needs torch and timm.

backbone.pth is a plain state dict in timm's names, which a ResNet shares with torchvision.
"""

import json
from pathlib import Path

import timm
import torch


def load(folder):
    told = json.loads(Path(folder, "metadata.json").read_text())
    model = timm.create_model(told["architecture"], num_classes=0, **told["options"])
    if told["small_images"]:  # a 3x3 stem without pooling
        model.conv1 = torch.nn.Conv2d(3, model.bn1.num_features, 3, padding=1, bias=False)
        model.maxpool = torch.nn.Identity()
    model.load_state_dict(torch.load(Path(folder, "backbone.pth"), map_location="cpu"))
    return model.eval()


def features(model, images):
    found = model.forward_features(images)
    told = {"embedding": model.forward_head(found)}
    if isinstance(model, timm.models.vision_transformer.VisionTransformer):
        rows, columns = model.patch_embed.grid_size
        found = found[:, -rows * columns :].transpose(1, 2).reshape(len(images), -1, rows, columns)
    return dict(told, map=found)
