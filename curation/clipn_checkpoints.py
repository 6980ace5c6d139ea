"""Files of CLIPN's weights: its published training checkpoints, whole, or the `no` tower alone."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# The text tower's top-level names; each has a twin ending in _no.
TOWER = ("transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection")
# What makes a numpy number: CLIPN's schedule leaves such learning rates in the optimizer's state.
_SCALAR: Any = np.float64(0).__reduce__()[0]
_NUMBERS: list[Any] = [
    np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.float32)),
    (_SCALAR, "numpy.core.multiarray.scalar"), (_SCALAR, "numpy._core.multiarray.scalar"),
]  # fmt: skip


def is_no(key: str) -> bool:
    """Whether a state dict's key is of the `no` tower."""
    return key == "prompt_no" or any(key == f"{name}_no" or key.startswith(f"{name}_no.") for name in TOWER)


def holds_no_tower(path: Path) -> bool:
    """Whether a weight file holds a `no` tower; False too for what is no file or cannot be read."""
    try:
        return path.is_file() and any(map(is_no, read_weights(path, "")))
    except ValueError:
        return False


def read_weights(path: Path, key: str) -> dict[str, Tensor]:
    """Name -> tensor of a .safetensors file, of a state dict, or of a training checkpoint's `state_dict`.

    The `module.` that training on several GPUs puts before names is dropped. Nothing is read from disk before it is
    used, where the format allows it. Raises ValueError naming the yaml key.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            with warnings.catch_warnings(), torch.serialization.safe_globals(_NUMBERS):
                warnings.simplefilter("ignore")  # of TorchScript archives, which are then refused
                state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{key}: {path} is damaged or no weight file ({reason}); fetch or train it again") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(
            f"{key}: {path} holds no weights by name; give the file that "
            "`python -m pas_train fit --config clipn.yaml` wrote, or CLIPN's training checkpoint"
        )
    return {re.sub(r"^module\.", "", name): value for name, value in state.items()}


def load_keys(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Loads a state dict in float32, every key of which is used.

    what: how an error begins: the yaml key, the file and what it does not fit.
    Raises ValueError listing the keys that are missing, left over or of another shape.
    """
    compare_keys(module.state_dict(), state, what)
    module.load_state_dict({name: value.float() for name, value in state.items()})


def compare_keys(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], what: str) -> None:
    """Raises ValueError listing the keys that are missing, left over or of another shape."""
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    shapes = [name for name in sorted(set(found) & set(expected)) if found[name].shape != expected[name].shape]
    lists = {"missing": missing, "left over": extra, "of another shape": shapes}
    wrong = [f"{name} {_some(keys)}" for name, keys in lists.items() if keys]
    if missing == ["prompt_no"]:
        wrong[0] += " (CLIPN's hand-crafted variant, whose `no` tower reads other sentences, is not supported)"
    if wrong:
        raise ValueError(f"{what}: {'; '.join(wrong)}")


def load_base(clip: nn.Module, path: Path, key: str) -> None:
    """Loads the image tower, the first text tower and the scale of a whole checkpoint; its other keys are `no` keys.

    Raises ValueError naming the yaml key and listing what is missing, left over or of another shape.
    """
    state = {name: value for name, value in read_weights(path, key).items() if not is_no(name)}
    load_keys(clip, _as_layout(clip, state), f"{key}: {path} does not fit the model")


def check_base(clip: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Raises ValueError unless the part of a whole checkpoint beside the `no` tower is the given model.

    A `no` tower is of use only beside the model that it was trained beside. Rounding to half precision is no
    difference; logit_scale, which training cuts at 100 and the scores do not use, may differ.
    """
    expected = {name: value for name, value in clip.state_dict().items() if name != "logit_scale"}
    found = {name: value for name, value in _as_layout(clip, state).items() if name != "logit_scale"}
    compare_keys(expected, found, what)
    other = [
        name
        for name, value in expected.items()
        if not torch.allclose(found[name].float(), value.float().cpu(), rtol=2e-3, atol=1e-5)
    ]
    if other:
        raise ValueError(
            f"{what}: it was trained beside another one ({len(other)} of {len(expected)} tensors differ: "
            f"{_some(other)}). Give the same file as curation.embed.clipn.pretrained, so that all towers come from it"
        )


def _as_layout(clip: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the names of open_clip's newer layout where the model has that one."""
    if not hasattr(clip, "text"):
        return dict(state)
    return {f"text.{name}" if name.split(".")[0] in TOWER else name: value for name, value in state.items()}


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:6]) + (f" and {len(keys) - 6} more" if len(keys) > 6 else "")
