"""What `export --ckpt_path` names, as a backbone: trainings, official MoCo v3, timm, torchvision, transformers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from datamodules.files import read_json, sha256_file
from pas_train import curated
from pas_train.backbones import build_backbone, is_transformer
from pas_train.evaluation.baselines import IMAGENET_MEAN, IMAGENET_STD
from pas_train.exporting.architectures import check_size, infer, native_size
from pas_train.exporting.history import of_training
from pas_train.exporting.metadata import of_backbone
from pas_train.exporting.source import Source
from pas_train.weight_files import (
    HUB,
    TIMM,
    download,
    find_file,
    of_timm,
    read_tensors,
    read_weights,
    source_of,
)
from pas_train.weight_layouts import MOCO, Published, convert, heads_of, some
from pas_train.weights import CHECKPOINT_KEY as KEY
from pas_train.weights import Holder, load

REMEDY = "name theirs with --backbone"
MOCO_LICENCE = "cc-by-nc-4.0"
OPTIMISER = {"optimizer", "optimizer_states", "param_groups", "state"}


@dataclass
class _Found:
    """Weights, and what their file says of the architecture. known: for the metadata."""

    published: Published
    name: str
    architecture: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    image_size: int | None = None
    small_images: bool = False
    known: dict[str, Any] = field(default_factory=dict)


def read_source(text: str, backbone: str | None = None, image_size: int | None = None) -> Source:
    """A backbone with its weights.

    text: a .ckpt of a training, a file of weights (official MoCo v3, torchvision, timm), a folder that timm or
    transformers saved, timm:NAME[.TAG] or hf:NAME. backbone: timm's name, where the file does not tell it. image_size:
    side of the images in pixels that it is to take, where that is not the size that it was trained with.
    Raises ValueError or OSError naming the option and what to give instead.
    """
    found = _found(text)
    _choose(found, backbone, text)
    native = found.image_size or native_size(_tensors(found), str(found.architecture), found.options)
    module, line = _built(found, native, text)
    past = of_training(found.known.pop("checkpoint", None), module, text)
    size = native if image_size is None else image_size
    if size != native:
        check_size(module, size, native)
        module, line = _built(found, size, text)
    published = found.published
    options = {**found.options, **({"img_size": size} if is_transformer(module) else {})}
    source = Source(
        module, str(found.architecture), size, published.mean or IMAGENET_MEAN, published.std or IMAGENET_STD, options,
        found.small_images, found.name,
    )  # fmt: skip
    known = found.image_size is not None or is_transformer(module)  # else it is what the architecture is made for
    told = {"source": {**found.known, "weights": line, "image_size": native if known else None}}
    return replace(source, metadata={**of_backbone(source), **told, **past})


def plain_name(name: str) -> str:
    """A name as a part of a path."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "backbone"


# Where the weights are.


def _found(text: str) -> _Found:
    if of_timm(text):
        return _of_timm(text)
    path = None if text.startswith(HUB) else find_file(text, KEY)
    if path is None or path.is_dir():
        return _of_folder(text, path)
    try:
        content = read_tensors(path)
        published = _converted(content)
    except (ValueError, OSError) as error:
        raise ValueError(f"{KEY}: {path}: {error}") from error
    known: dict[str, Any] = {"file": path.resolve().name, "sha256": sha256_file(path), "layout": published.layout}
    settings = content.get("hyper_parameters") or {} if "global_step" in content else {}
    if settings.get("backbone") and any(name.startswith("backbone.") for name in published.tensors):
        options = dict(settings.get("backbone_options") or {})
        return _Found(
            published, _run_name(path), str(settings["backbone"]), options, int(settings.get("image_size", 224)),
            bool(settings.get("small_images", False)), {**known, "checkpoint": content},
        )  # fmt: skip
    if published.layout == MOCO:
        known |= {"license": MOCO_LICENCE, "url": source_of(path.name)}
    elif source_of(path.name) is not None:
        known |= {"license": "bsd-3-clause", "url": source_of(path.name)}
    beside = read_json(path.with_name("metadata.json"))
    if isinstance(beside, dict) and {"architecture", "options", "small_images", "image_size"} <= set(beside):
        published.mean, published.std = beside["mean"], beside["std"]  # of an export
        return _Found(
            published, beside["name"] or path.stem, beside["architecture"], beside["options"], beside["image_size"],
            beside["small_images"], known,
        )  # fmt: skip
    return _Found(published, path.name.partition(".")[0], known=known)


def _of_timm(text: str) -> _Found:
    base, _, tag = text.removeprefix(TIMM).removeprefix(":").partition(".")
    if not base:
        raise ValueError(f"{KEY}: {text} names no model; write timm:NAME or timm:NAME.TAG")
    import timm

    _known(base, KEY)
    published, name = read_weights(f"{TIMM}:{tag}" if tag else TIMM, KEY, base)
    settings = timm.get_pretrained_cfg(name.removeprefix("timm "))
    size = int(settings.input_size[-1]) if settings else None
    known = {"file": text, "layout": published.layout, "license": getattr(settings, "license", None)}
    return _Found(published, name.removeprefix("timm "), base, {}, size, known=known)


def _of_folder(text: str, path: Path | None) -> _Found:
    """Of a folder or a repository."""
    published, _ = read_weights(text, KEY, "")
    repository = text.removeprefix(HUB)
    config = read_json(path / "config.json" if path is not None else download(repository, "config.json")) or {}
    known: dict[str, Any] = {"file": path.name if path is not None else repository, "layout": published.layout}
    found = _Found(published, path.resolve().name if path is not None else repository, known=known)
    if "architecture" in config:
        prepared = config.get("pretrained_cfg") or config
        found.architecture = str(config["architecture"]).partition(".")[0]
        found.options = {k: v for k, v in (config.get("model_args") or {}).items() if k != "num_classes"}
        found.image_size = int((prepared.get("input_size") or (3, 224, 224))[-1])
        known["license"] = prepared.get("license")
    elif config.get("model_type") in ("vit", "vit_mae", "vit_msn", "dinov2") and config.get("image_size"):
        found.image_size = int(config["image_size"])
    return found


def _run_name(path: Path) -> str:
    """The training's where a checkpoint lies in its folder, else the file's."""
    folder = run_folder(path)
    return folder.name if folder is not None else path.stem


def run_folder(path: Path) -> Path | None:
    """WORKSPACE/training/RUN of WORKSPACE/training/RUN/checkpoints/FILE."""
    path = path.expanduser()
    path = path if len(path.parents) > 2 else path.absolute()
    inside = path.suffix == ".ckpt" and path.parent.name == "checkpoints"
    return path.parents[1] if inside and (path.parents[1] / "config.yaml").exists() else None


def _converted(content: Any) -> Published:
    """The weights of a file's content. Raises ValueError for what holds none of a backbone."""
    if isinstance(content, Mapping):
        _refuse_kinds(content)
    published = convert(content)
    names = [name.removeprefix("backbone.") for name in published.tensors]
    if curated.is_clipn(names):
        raise ValueError("it is CLIPN's, a text tower for the out-of-domain score, and has no backbone to export")
    heads = ("projector.", "predictor.", "momentum_", "queue", "prototypes")
    if all(name.startswith(heads) for name in names):
        raise ValueError(f"it has no backbone, but {some(names)}: give a checkpoint of the whole training")
    return published


def _refuse_kinds(content: Mapping[str, Any]) -> None:
    settings = content.get("hyper_parameters") or {}
    if {"prototypes", "hard_from"} <= set(settings):
        raise ValueError(
            f"it is a training of ProtoSim, whose transformer is not trained: export {settings.get('weights')} of "
            f"{settings.get('backbone')}, which it begins with"
        )
    if set(content) & OPTIMISER and not {"state_dict", "model", "teacher"} & set(content):
        raise ValueError("it holds the state of an optimiser alone; give the checkpoint that has the weights")


# What architecture they are of.


def _tensors(found: _Found) -> dict[str, Any]:
    """The backbone's, by timm's names."""
    prefix = "backbone."
    return {n.removeprefix(prefix): v for n, v in found.published.tensors.items() if n.startswith(prefix)}


def _choose(found: _Found, backbone: str | None, text: str) -> None:
    """Completes the architecture: by the file, by its tensors, or by --backbone."""
    if found.architecture is not None:
        if backbone is not None and backbone != found.architecture:
            raise ValueError(f"--backbone {backbone}: {text} is a {found.architecture}; leave --backbone out")
        return
    if backbone is not None:
        _known(backbone, "--backbone")
    found.architecture = backbone or infer(_tensors(found))
    if found.architecture is None:
        raise ValueError(
            f"{KEY}: {text} ({found.published.layout}) is no architecture that its {len(_tensors(found))} tensors tell "
            f"({some(list(_tensors(found)))}): name it as timm does, with --backbone; or it is no backbone"
        )
    heads = found.published.heads
    if heads is not None and heads != heads_of(found.architecture, {}):
        found.options["num_heads"] = heads


def _built(found: _Found, size: int, text: str) -> tuple[nn.Module, str]:
    """(the backbone for images of this size, what was loaded into it in one line)."""
    options = {**found.options, **({"img_size": size} if "img_size" in found.options else {})}
    name = str(found.architecture)
    module = _build(name, size, options, "--backbone", found.small_images)
    published = found.published
    mean, std = published.mean or IMAGENET_MEAN, published.std or IMAGENET_STD
    line = load(Holder(module, name, mean, std, "--backbone", REMEDY), published, f"{KEY}: {text}")
    return module.eval().requires_grad_(False), line


def _build(name: str, size: int, options: Mapping[str, Any], key: str, small: bool = False) -> nn.Module:
    try:
        return build_backbone(name, size, False, False, False, small, options)
    except ValueError as error:
        raise ValueError(f"{key}: {re.sub(r'^model[.][a-z_]+: ', '', str(error))}") from error


def _known(name: str, key: str) -> None:
    """Raises ValueError with what is close where timm has no such model."""
    import timm

    if not timm.is_model(name):
        _build(name, 224, {}, key)
