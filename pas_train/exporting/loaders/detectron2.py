"""This backbone in detectron2: `from load import load; backbone = load(".")`. Needs torch and detectron2.

It gives "res2" to "res5" of a ResNet, "last_feat" of a transformer, of RGB images that are normalised already. The
transformer is ViTDet's, without class token and last norm: "last_feat" is what the patches compute alone.
"""

import pickle
from pathlib import Path

import torch
from detectron2.config import LazyConfig, instantiate


def load(folder):
    """The backbone, in eval mode. Raises RuntimeError naming tensors that are missing or left over."""
    backbone = instantiate(LazyConfig.load(str(Path(folder) / "backbone.py")).backbone)
    with open(Path(folder) / "model.pkl", "rb") as file:
        tensors = pickle.load(file)["model"]
    backbone.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
    return backbone.eval()


@torch.no_grad()
def features(model, images):
    """Its last map of normalised images, float32 [N, 3, S, S]; of a transformer that of its patches alone (ViTDet)."""
    maps = model(images)
    if "last_feat" in maps:
        return {"patch_map": maps["last_feat"]}
    return {"map": maps["res5"], "embedding": maps["res5"].mean(dim=(2, 3))}
