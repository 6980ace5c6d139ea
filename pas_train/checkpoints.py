"""Checkpoints that a person names: read, compared with the model, loaded."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from pas_train.weights import load_published

KEY = "--ckpt_path"


def read_checkpoint(path: str | Path | None, purpose: str) -> dict[str, Any]:
    """The content of a checkpoint of a training. purpose: what the command does with it, for the message.

    Raises: FileNotFoundError or ValueError naming --ckpt_path.
    """
    if path is None:
        raise ValueError(f"{KEY} is not set; name the checkpoint {purpose}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{KEY}: {path} does not exist; checkpoints lie in WORKSPACE/training/RUN/checkpoints")
    try:
        # It may hold the state of loaders and callbacks, which only an unrestricted load can read.
        checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # what unpickling raises depends on the damage
        said = str(error).split("\n")[0]
        raise ValueError(
            f"{KEY}: {path} cannot be read as a checkpoint ({said}); it is damaged or another kind of file: give a "
            ".ckpt of a training"
        ) from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "global_step"} <= set(checkpoint):
        raise ValueError(f"{KEY}: {path} holds no state of a training; give a .ckpt of a training, such as last.ckpt; to start "
            "from published weights set model.weights")
    return checkpoint


def check_weights(model: nn.Module, checkpoint: dict[str, Any], path: str | Path | None) -> None:
    """Raises ValueError where the checkpoint's weights are those of another model."""
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    theirs = {name: tuple(getattr(value, "shape", ())) for name, value in checkpoint["state_dict"].items()}
    if own == theirs:
        return
    groups = {
        "lacks": [name for name in own if name not in theirs],
        "has besides": [name for name in theirs if name not in own],
        "has in another shape": [name for name in own if name in theirs and own[name] != theirs[name]],
    }
    differences = [f"it {said} {len(names)} tensors ({names[0]}, ...)" for said, names in groups.items() if names]
    raise ValueError(
        f"{KEY}: {path} was not trained with this model section: {', '.join(differences)}. Give the config.yaml of its "
        "run with --config, or another checkpoint"
    )


def load_weights(model: nn.Module, path: str | Path | None, purpose: str) -> dict[str, Any]:
    """Puts a checkpoint's weights into the model, or published ones; returns the checkpoint."""
    published = load_published(model, path)
    if published is not None:
        return published
    checkpoint = read_checkpoint(path, purpose)
    check_weights(model, checkpoint, path)
    model.load_state_dict(checkpoint["state_dict"])
    return checkpoint
