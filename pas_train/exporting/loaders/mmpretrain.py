"""The backbone in MMPretrain 1.x: `from load import load; backbone = load(".")`. Needs mmpretrain.

In a config, backbone.py is one of `_base_`, and the model takes `backbone=dict(_delete_=True, **_base_.backbone)`.
"""

from pathlib import Path

import mmpretrain.models  # noqa: F401  registers them
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS


def load(folder):
    model = MODELS.build(Config.fromfile(Path(folder, "backbone.py")).backbone)
    model.init_weights()  # as a training does
    model.eval()
    saved = torch.load(Path(folder, "backbone.pth"), map_location="cpu")["state_dict"]
    loaded = {"backbone." + name: value for name, value in model.state_dict().items()}
    wrong = [
        n for n in {**saved, **loaded} if n not in saved or n not in loaded or not torch.equal(saved[n], loaded[n])
    ]
    if wrong:
        raise ValueError("not in the file, or not loaded from it: %s" % ", ".join(wrong))
    return model


def features(model, images):
    found = model(images)[-1]
    if found.ndim == 4:  # a ResNet's map
        return {"map": found, "embedding": found.mean((2, 3))}
    kind, model.out_type = model.out_type, "featmap"
    told = {"map": model(images)[-1], "embedding": found}
    model.out_type = kind
    return told
