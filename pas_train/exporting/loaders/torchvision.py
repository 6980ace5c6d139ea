"""The backbone as torchvision's model: `from load import load; model = load(".")`. Needs torch and torchvision.

backbone.pth is a state dict in torchvision's names; model.json holds the arguments of the class that takes it.
"""

import json
from pathlib import Path

import torch
import torchvision


def load(folder):
    told = json.loads(Path(folder, "model.json").read_text())
    made = getattr(torchvision.models, told.pop("class"))
    if "block" in told:
        told["block"] = getattr(torchvision.models.resnet, told["block"])
    model = made(**told)
    model.fc = model.heads = torch.nn.Identity()  # the classifier, of a ResNet and of a transformer
    model.load_state_dict(torch.load(Path(folder, "backbone.pth"), map_location="cpu"))
    return model.eval()


def features(model, images):
    found = []
    last = model.layer4 if hasattr(model, "layer4") else model.encoder
    hook = last.register_forward_hook(lambda module, given, output: found.append(output))
    embedding = model(images)
    hook.remove()
    if found[0].ndim == 3:  # tokens, the first is the class token
        side = model.image_size // model.patch_size
        found = [found[0][:, 1:].transpose(1, 2).reshape(len(images), -1, side, side)]
    return {"embedding": embedding, "map": found[0]}
