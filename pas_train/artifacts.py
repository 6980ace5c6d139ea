"""What a run gives Weights & Biases to keep: its data set, its backbone, its results.

The files lie in the run's wandb/artifacts, as they were: an offline run is sent later, when the workspace may hold
others.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from datamodules.files import atomic, fingerprint, sha256_file, write_json
from datamodules.sources import names_of
from pas_train.backbones import backbone_of
from pas_train.results import FILE
from pas_train.runs import MANIFEST, Run
from pas_train.tracking import log_artifact

if TYPE_CHECKING:
    from lightning.pytorch.loggers import WandbLogger

Kind = Literal["data_set", "backbone", "results"]
KINDS: tuple[Kind, ...] = ("data_set", "backbone", "results")
BESIDE = ("selection.json", "README.md")  # a manifest
DIGITS = 12  # of an identity, in an alias


def log_artifacts(
    logger: "WandbLogger", kinds: list[Kind], run: Run, model: nn.Module | None, settings: Mapping[str, Any],
    results: Mapping[str, Any],
) -> None:  # fmt: skip
    """Sends the artifacts that are asked for. settings: the yaml's `model`. model: with its final weights."""
    folder = run.folder / "wandb" / "artifacts"
    data = results["data"]
    if "data_set" in kinds:
        for name, identity, files in _data_sets(run, data, folder):
            log_artifact(logger, "dataset", name, files, data, [_short(identity)], used=True)
    if "backbone" in kinds and all(hasattr(model, name) for name in ("backbone", "image_size", "mean", "std")):
        files = write_backbone(folder / "backbone", model, settings)
        metadata = {"training": _told(results.get("training")), "data": dict(data)}  # W&B takes 100 keys in all
        log_artifact(logger, "model", f"{run.name}-backbone", files, metadata)
    if "results" in kinds:
        files = {FILE: _kept(run.folder / FILE, folder / FILE)}
        log_artifact(logger, "results", f"{run.name}-results", files, {"labels": results.get("labels")})


def _data_sets(run: Run, data: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, str, dict[str, Path]]]:
    """(name, identity, files) of each data set: its manifest and how it was selected, or what is known of another."""
    names = names_of(run.source)
    manifests = [Path(name) for name in names if Path(name).name == MANIFEST and Path(name).is_file()]
    for manifest in manifests:
        own = "-".join(part for part in manifest.resolve().parts[-4:-1] if part != "dataset")  # food-full
        there = [path for path in (manifest.with_name(name) for name in BESIDE) if path.is_file()]
        files = {path.name: _kept(path, folder / own / path.name) for path in (manifest, *there)}
        yield own, sha256_file(manifest), files
    if len(manifests) < len(names):
        path = folder / "data_set.json"
        write_json(path, dict(data))
        yield str(data.get("name") or "data"), str(data["identity"]), {path.name: path}


def write_backbone(folder: Path, model: Any, settings: Mapping[str, Any]) -> dict[str, Path]:
    """Writes a backbone's weights and how to build it; returns its files.

    As timm reads them: `timm.create_model("local-dir:FOLDER")`, but for the stems of `small_images`.
    """
    from safetensors.torch import save_file

    backbone = backbone_of(model)
    arguments = settings.get("init_args", settings)
    mean, std = ([round(float(value) / 255, 6) for value in values.flatten()] for values in (model.mean, model.std))
    size, width = int(model.image_size), int(getattr(backbone, "num_features", 0))
    options = dict(arguments.get("backbone_options") or {})
    if hasattr(backbone, "pos_embed"):
        options["img_size"] = size
    config = {
        "architecture": getattr(model, "backbone_name", type(backbone).__name__), "num_classes": 0,
        "num_features": width, "model_args": options, "small_images": bool(arguments.get("small_images")),
        "pretrained_cfg": {
            "input_size": [3, size, size], "fixed_input_size": "img_size" in options, "interpolation": "bicubic",
            "crop_pct": 1.0, "mean": mean, "std": std, "num_classes": 0, "pool_size": None, "first_conv": None,
            "classifier": None,
        },
    }  # fmt: skip
    weights = folder / "model.safetensors"
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in backbone.state_dict().items()}
    with atomic(weights) as temporary:
        save_file(tensors, temporary, {"format": "pt"})
    write_json(folder / "config.json", config)
    return {path.name: path for path in (weights, folder / "config.json")}


def _kept(source: Path, place: Path) -> Path:
    """The bytes of a file under another name, that stay when a new file takes the old name."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        place.unlink()
    try:
        os.link(source.resolve(), place)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, place)
    return place


def _told(training: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (training or {}).items() if key != "curve"}


def _short(identity: Any) -> str:
    """An identity as an alias; a path or an address has characters that aliases may not have."""
    text = str(identity)
    return (text if text.isalnum() else fingerprint(text))[:DIGITS]
