"""Checkpoints of a run and those that a person names: found, read, compared with the model, loaded."""

import re
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn

from pas_train.weights import load_published

KEY = "--ckpt_path"
LAST = "last.ckpt"  # a link to the newest
RESTART = re.compile(r"step=(\d+)\.ckpt")


def restart_name(step: int) -> str:
    """The name of a checkpoint to go on from."""
    return f"step={step}.ckpt"


def restart_points(folder: Path) -> dict[int, Path]:
    """Step -> checkpoint that a run could go on from, by their names."""
    found = ((RESTART.fullmatch(path.name), path) for path in folder.glob("step=*.ckpt"))
    return {int(match[1]): path for match, path in found if match}


def newest_good(folder: Path) -> Path | None:
    """The checkpoint that a run goes on from: the newest whose checksums are right; None where there is none at all.

    Names those that are damaged in a warning. Raises ValueError where all of them are.
    """
    points, last = restart_points(folder), folder / LAST
    candidates = [points[step] for step in sorted(points, reverse=True)]
    if last.exists() and last.resolve() not in [path.resolve() for path in candidates]:
        candidates.append(last)  # a copy, without what it was a copy of
    damaged: list[str] = []
    for path in candidates:
        state = path.stat()
        wrong = damage(path, state.st_mtime_ns, state.st_size)
        if wrong is None:
            if damaged:
                rank_zero_warn(f"{'; '.join(damaged)}. {path.name} is the newest good checkpoint, and is taken instead")
            return last if last.exists() and last.samefile(path) else path
        damaged.append(f"{path} is damaged: {wrong}")
    if damaged:
        raise ValueError(
            f"{'; '.join(damaged)}. No good checkpoint is left in this folder: bring one back from a copy, or remove "
            "these files to begin the training anew"
        )
    return None


@cache
def damage(path: Path, changed_ns: int, size: int) -> str | None:
    """What is wrong with a checkpoint's file by its checksums, or None; read once per state of the file."""
    if path.is_dir():  # of a strategy that lets each rank write its own part, and this file at the end
        return None if (path / "meta.pt").is_file() else "meta.pt is missing"
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
    except OSError:
        raise  # the disk's trouble, not the file's
    except Exception as error:  # what zipfile raises depends on the damage
        return f"{size} bytes, {str(error)[:1].lower()}{str(error)[1:]}"
    return None if part is None else f"the checksum of {part} is wrong"


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
        checkpoint = load(path)
    except Exception as error:  # what unpickling raises depends on the damage
        said = str(error).split("\n")[0]
        raise ValueError(
            f"{KEY}: {path} cannot be read as a checkpoint ({said}); it is damaged or another kind of file: give a "
            ".ckpt of a training"
        ) from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "global_step"} <= set(checkpoint):
        raise ValueError(
            f"{KEY}: {path} holds no state of a training; give a .ckpt of a training, such as last.ckpt; to start "
            "from published weights set model.weights"
        )
    return checkpoint


def load(path: str | Path) -> Any:
    """What torch.save wrote; tensors stay on the disk until they are used, so that looking at a number is cheap."""
    return torch.load(path, map_location="cpu", weights_only=False, mmap=zipfile.is_zipfile(path))


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
