"""The backbone in MMSegmentation 1.x: `from load import load; backbone = load(".")`. Needs mmsegmentation.

In a config, backbone.py is one of `_base_`, and the model takes `backbone=dict(_delete_=True, **_base_.backbone)`.
"""

from pathlib import Path

import mmseg.models  # noqa: F401  registers them
import torch
from mmengine.config import Config
from mmseg.registry import MODELS


def load(folder):
    model = MODELS.build(Config.fromfile(Path(folder, "backbone.py")).backbone)
    model.init_weights()  # as a training does
    model.eval()
    saved, loaded = torch.load(Path(folder, "backbone.pth"), map_location="cpu")["state_dict"], model.state_dict()
    wrong = [
        n for n in {**saved, **loaded} if n not in saved or n not in loaded or not torch.equal(saved[n], loaded[n])
    ]
    if wrong:
        raise ValueError("not in the file, or not loaded from it: %s" % ", ".join(wrong))
    return model


def features(model, images):
    return {"map": model(images)[-1]}
