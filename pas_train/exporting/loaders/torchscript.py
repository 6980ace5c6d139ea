"""The backbone as a program: `from load import load; model = load(".")`. Needs torch alone.

`model(images)` gives embeddings. Of the size of images it takes see metadata.json, which is inside the file as well:
`files = {"metadata.json": ""}; torch.jit.load("backbone.pt", _extra_files=files)`.
"""

import warnings
from pathlib import Path

import torch


def load(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer torch goes towards torch.export, and loads these files all the same
        return torch.jit.load(str(Path(folder, "backbone.pt")), map_location="cpu").eval()


def features(model, images):
    return {"embedding": model(images)}
