"""Where a training starts: `model.weights`, and published weights that are evaluated as they are."""

import copy
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn
from torch import Tensor, nn

from pas_train.backbones import sincos_position_embedding
from pas_train.checkpoint_io import save_whole
from pas_train.weight_files import HUB, LEGACY, START_KEY, of_timm, read_weights, source_of
from pas_train.weight_layouts import Published, attention_heads, some

KEY = START_KEY
CHECKPOINT_KEY = "--ckpt_path"
SETTING = "model.backbone"
REMEDY = "set model.backbone, model.backbone_options and model.small_images to theirs"


# What a training starts from.


def load_start(model: Any) -> None:
    """Puts the weights of `model.weights` into a new method, once, and says in one line what was taken.

    Raises: ValueError or OSError naming model.weights. Nothing is loaded then.
    """
    if getattr(model, "weights", None) is None or model.started:
        return
    published, name = read_weights(model.weights, KEY, model.backbone_name)
    taken = load(model, published, f"{KEY}: {name}")
    model.started = True
    _tell(f"weights     {name}: {taken}")


def check_start(model: Any, workspace: Path) -> None:
    """Raises what `load_start` would, before hours of curation, where no training of the workspace can be gone on with.

    A training that goes on needs the weights that it started from no more.
    """
    if getattr(model, "weights", None) is None or any(workspace.glob("training/*/checkpoints/*.ckpt")):
        return
    published, name = read_weights(model.weights, KEY, model.backbone_name)
    fitting(model, published, f"{KEY}: {name}")


def begin(model: Any, file: Path) -> None:
    """Starts a training that has no checkpoint; keeps in `file` the backbone that it starts with, to be judged too."""
    load_start(model)
    if getattr(model, "weights", None) is not None:
        _keep(model.backbone, file)


@rank_zero_only
def _keep(backbone: nn.Module, file: Path) -> None:
    save_whole(backbone.state_dict(), file)


def started_backbone(backbone: nn.Module, file: Path) -> nn.Module | None:
    """The backbone that a training started with, as `begin` kept it; None where that was random weights."""
    if not file.exists():
        return None
    start = copy.deepcopy(backbone)
    start.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return start


def own_start(model: Any) -> Path | None:
    """The checkpoint of a training, if that is what `model.weights` names."""
    weights = getattr(model, "weights", None)
    return Path(weights) if weights is not None and Path(weights).is_file() and not is_published(weights) else None


def origin_of_start(model: Any, origin: dict[str, Any]) -> dict[str, Any]:
    """What a training remembers of its images; as not screened where it starts from published weights.

    origin: of its own images (`pas_train.evaluation.screening`).
    """
    if getattr(model, "weights", None) is None or own_start(model) is not None:
        return origin
    own = {key: value for key, value in origin.items() if key != "parts"}
    return {**own, "workspace": None, "why": f"it started from {model.weights}, whose images cannot be screened"}


def load_published(model: Any, path: str | Path | None) -> dict[str, Any] | None:
    """Puts published weights that --ckpt_path names into a method; None where it names no such, but a training's.

    Returns what stands for the checkpoint of a training: `global_step` None, as nobody knows.
    """
    if path is None or not hasattr(model, "backbone") or not is_published(path):
        return None
    published, name = read_weights(str(path), CHECKPOINT_KEY, getattr(model, "backbone_name", ""))
    _tell(f"weights     {name}: {load(model, published, f'{CHECKPOINT_KEY}: {name}')}")
    return {"state_dict": model.state_dict(), "global_step": None}


def is_published(path: str | Path) -> bool:
    """Whether --ckpt_path names published weights, rather than the checkpoint of a training."""
    text, file = str(path), Path(path)
    if of_timm(text) or text.startswith(HUB) or file.suffix == ".safetensors":
        return True
    if file.is_dir():
        return (file / "config.json").is_file()
    if not file.exists():
        return source_of(file.name) is not None
    if zipfile.is_zipfile(file):
        try:
            with zipfile.ZipFile(file) as archive:
                pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
                return bool(pickles) and b"global_step" not in archive.read(pickles[0])
        except (zipfile.BadZipFile, OSError):
            return False
    with open(file, "rb") as stream:
        return stream.read(len(LEGACY)) == LEGACY


def figures_path(path: str, workspace: Path) -> Path:
    """Where the figures of --ckpt_path are kept: beside a training's checkpoint, else in the workspace."""
    if not is_published(path):
        return Path(path).with_suffix(".evaluation.json")
    named = of_timm(path) or path.startswith(HUB)
    name = path.removeprefix(HUB).replace("/", "-").replace(":", "-") if named else Path(path).stem
    return workspace / "evaluation" / f"{name}.evaluation.json"


@rank_zero_only
def _tell(line: str) -> None:
    print(line, flush=True)


# Fitting them into a method.


class Holder(nn.Module):
    """What weights are loaded into where there is no method: a backbone alone, as it lies in one.

    setting, remedy: what named the backbone, and what else a person can do where weights are of another, for errors.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: nn.Module, name: str, mean: Sequence[float], std: Sequence[float],
        setting: str = SETTING, remedy: str = REMEDY,
    ) -> None:  # fmt: skip
        super().__init__()
        self.backbone, self.backbone_name, self.setting, self.remedy = backbone, name, setting, remedy
        self.register_buffer("mean", torch.tensor(list(mean)) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(list(std)) * 255, persistent=False)


def load(model: Any, published: Published, subject: str) -> str:
    """Loads what fits; returns what was taken, in one line. subject: setting and name, for errors and warnings."""
    tensors, line = fitting(model, published, subject)
    own = model.state_dict()
    with torch.no_grad():
        for name, value in tensors.items():
            own[name].copy_(value)
    for name in ("mean", "std"):
        theirs, ours = getattr(published, name), [round(float(one) / 255, 4) for one in getattr(model, name).flatten()]
        if theirs is not None and any(abs(a - b) > 2e-3 for a, b in zip(theirs, ours, strict=True)):
            rank_zero_warn(
                f"{subject}: its {name} of the colours is {list(theirs)}, the images here are prepared with {ours}: "
                f"set model.{name} to {list(theirs)}, so that the backbone sees the colours it knows"
            )
    return line


def fitting(model: Any, published: Published, subject: str) -> tuple[dict[str, Tensor], str]:
    """(tensors by name in the method's state dict, in its shapes; what they are, in one line).

    The backbone's must be there to the last one. Heads and momentum encoder are taken where all of them fit, as between
    trainings with the same method; else the momentum encoder begins as the backbone. Raises: ValueError.
    """
    own, given = model.state_dict(), dict(published.tensors)
    heads = attention_heads(model.backbone)
    name = getattr(model, "backbone_name", "")
    if published.heads is not None and heads is not None and published.heads != heads:
        raise ValueError(
            f"{subject}: its transformer has {published.heads} attention heads, model.backbone {name} has {heads}, "
            f"which no tensor shows: set model.backbone_options to {{num_heads: {published.heads}}}"
        )
    resized = [_fit_positions(model.backbone, given, prefix) for prefix in ("backbone.", "momentum_backbone.")]
    counters = [one for one in own if one.endswith("num_batches_tracked") and one not in given]  # not in old files
    parts: list[dict[str, Tensor]] = [
        {one: value for one, value in tensors.items() if one.startswith("backbone.") == inside and one not in counters}
        for inside in (True, False)
        for tensors in (own, given)
    ]
    differences = _differences(parts[0], parts[1])
    if differences:
        raise ValueError(
            f"{subject} ({published.layout}) does not fit {getattr(model, 'setting', SETTING)} {name}: {differences}. "
            f"Nothing was loaded; give weights of this backbone, or {getattr(model, 'remedy', REMEDY)}"
        )
    unusable = [one for one, value in given.items() if value.is_floating_point() and not value.isfinite().all()]
    if unusable:
        raise ValueError(f"{subject}: {len(unusable)} tensors hold values that are no numbers ({some(unusable)})")
    taken, line = parts[1], f"{published.layout}, all {len(parts[1])} tensors of the backbone"
    why = _differences(parts[2], parts[3])
    if parts[3] and not why:
        taken, line = given, f"{line} and {len(parts[3])} of heads and momentum encoder"
    else:
        copies = {f"momentum_{one}": value for one, value in taken.items()}
        taken = taken | {one: value for one, value in copies.items() if one in own}
        reason = f" (theirs are of another kind: {why})" if parts[3] else ""
        line += f"; heads start from random weights{reason}" if parts[2] else ""
    line += f"; position embedding {resized[0]}" if resized[0] else ""
    line += f"; left out {some(published.left_out)}" if published.left_out else ""
    return taken, line


def _differences(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
    """What is missing, too much, or of another shape, in words; nothing where all is equal."""
    shapes = [
        f"{one} {list(theirs[one].shape)}, here {list(own[one].shape)}"
        for one in own
        if one in theirs and own[one].shape != theirs[one].shape
    ]
    groups = {
        "lacks": [one for one in own if one not in theirs],
        "has besides": [one for one in theirs if one not in own],
        "has in another shape": shapes,
    }
    return "; ".join(f"it {said} {len(names)} tensors ({some(names)})" for said, names in groups.items() if names)


def _fit_positions(backbone: Any, tensors: dict[str, Tensor], prefix: str) -> str | None:
    """Puts the position embedding of another image size into the backbone's, in place; says how, if it had to."""
    own, given = getattr(backbone, "pos_embed", None), tensors.get(f"{prefix}pos_embed")
    if not isinstance(own, Tensor) or given is None or given.ndim != 3 or own.shape == given.shape:
        return None
    rows, columns = backbone.patch_embed.grid_size
    before = own.shape[1] - rows * columns  # of the class token and registers
    side = math.isqrt(max(0, given.shape[1] - before))
    if own.shape[2] != given.shape[2] or side * side + before != given.shape[1]:
        return None  # another width: the comparison names it
    zeros = given.new_zeros(1, before, given.shape[2])
    if given.shape[2] % 4 == 0 and rows == columns:
        patches = sincos_position_embedding(given.shape[2], side)[:, 1:]
        if torch.allclose(given.float(), torch.cat([zeros.float(), patches], dim=1), atol=2e-3):  # float16 rounds
            patches = sincos_position_embedding(given.shape[2], rows)[:, 1:]
            tensors[f"{prefix}pos_embed"] = torch.cat([zeros.float(), patches], dim=1)
            return f"(sine-cosine) computed for {rows} x {columns}"
    from timm.layers import resample_abs_pos_embed

    tensors[f"{prefix}pos_embed"] = resample_abs_pos_embed(
        given, [rows, columns], [side, side], num_prefix_tokens=before
    )
    return f"interpolated from {side} x {side} to {rows} x {columns}"
