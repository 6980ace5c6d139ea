"""Baselines: backbones that a training is compared with, by name.

    pixels                         the images as they are
    untrained, start               the model's backbone with random weights, and as a training with model.weights began
    timm:NAME[.TAG]                timm's architecture with timm's weights
    hf:NAME                        a repository of the Hugging Face hub, of transformers or timm, or a folder
    mocov3:FILE[?backbone=NAME]    an official checkpoint of MoCo v3, or another file of weights
    random:NAME[?seed=N]           timm's architecture with random weights

All are judged on images of the evaluation's size, each with the colours' mean and std that it knows.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import torch
from torch import nn

from pas_train.backbones import build_backbone
from pas_train.evaluation.candidates import Candidate
from pas_train.evaluation.hub_backbones import HubBackbone
from pas_train.weight_files import (
    download,
    load_transformers,
    read_colours,
    read_weights,
    timm_name,
    timm_repository,
    unavailable,
)
from pas_train.weights import Holder, load

KEY = "evaluation.baselines"
OWN = ("pixels", "untrained", "start")
FORMS = {"timm": "timm:NAME", "hf": "hf:NAME", "mocov3": "mocov3:FILE", "random": "random:NAME"}
OPTIONS: dict[str, tuple[str, ...]] = {"timm": (), "hf": (), "mocov3": ("backbone",), "random": ("seed",)}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Of the official files by the beginning of their names.
MOCO_BACKBONES = {"vit-s": "vit_small_patch16_224", "vit-b": "vit_base_patch16_224", "r-50": "resnet50"}


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError for names that are none, with what is close to them. Loads nothing."""
    for name in names:
        if name not in OWN:
            _parsed(name)


def check_baselines(names: Sequence[str], image_size: int) -> None:
    """Loads every baseline with weights of its own, once; raises what `load_baseline` would, before anything long."""
    for name in dict.fromkeys(names):
        if name not in OWN:
            load_baseline(name, image_size)


def load_baseline(name: str, image_size: int) -> Candidate:
    """A published or random backbone, fit for images of this side in pixels.

    Raises ValueError or FileNotFoundError naming evaluation.baselines: unknown names, weights that cannot be had, an
    architecture that cannot take such images.
    """
    kind, what, options = _parsed(name)
    key = f"{KEY}: {name}"
    if kind == "timm":
        backbone, settings = _of_timm(what, image_size, key, pretrained=True)
        return _candidate(name, what, backbone, settings, image_size)
    if kind == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(options.get("seed", "0")))
            backbone, settings = _of_timm(what, image_size, key, pretrained=False)
        seed = f" seed {options['seed']}" if "seed" in options else ""
        return _candidate(name, f"random {what}{seed}", backbone, settings, image_size, "untrained")
    if kind == "hf":
        return _of_hub(name, what, image_size, key)
    return _of_moco(name, what, options.get("backbone"), image_size, key)


def _parsed(name: str) -> tuple[str, str, dict[str, str]]:
    """(kind, what it names, options)."""
    kind, colon, rest = name.partition(":")
    what, _, query = rest.partition("?")
    if kind not in FORMS or not colon or not what:
        raise ValueError(f"{KEY}: {name} is unknown{_close(name)}; choices: {', '.join([*OWN, *FORMS.values()])}")
    options = {}
    for pair in filter(None, query.split("&")):
        option, equals, value = pair.partition("=")
        if option not in OPTIONS[kind] or not equals or not value:
            allowed = " or ".join(f"?{one}=" for one in OPTIONS[kind]) or "none"
            raise ValueError(f"{KEY}: {name}: {pair} is no option of {kind}:, which takes {allowed}")
        options[option] = unquote(value)
    if not options.get("seed", "0").isdecimal():
        raise ValueError(f"{KEY}: {name}: seed must be a number from 0, got {options['seed']}")
    if kind in ("timm", "random"):
        _check_timm(what, name)
    return kind, what, options


def _close(name: str) -> str:
    """What the person may have meant."""
    own = difflib.get_close_matches(name, [*OWN, *FORMS], n=1)
    if own:
        return f" (did you mean {FORMS.get(own[0], own[0])}?)"
    import timm

    if timm.is_model(name.partition(".")[0]):
        return f" (did you mean timm:{name}?)"
    return ""


def _check_timm(what: str, name: str) -> None:
    import timm

    base = what.partition(".")[0]
    if not timm.is_model(base):
        close = difflib.get_close_matches(base, timm.list_models(), n=4)
        hint = f"; close matches: {', '.join(close)}" if close else ""
        raise ValueError(f"{KEY}: {name}: timm has no model {base}{hint}")


def _candidate(
    name: str, title: str, backbone: nn.Module, settings: Mapping[str, Any], size: int, kind: Any = "published"
) -> Candidate:
    """After a look at whether it takes such images."""
    native = (settings.get("input_size") or (None, None, None))[-1]
    patch = getattr(getattr(backbone, "patch_embed", None), "patch_size", None)
    if isinstance(patch, tuple) and size % patch[0]:
        raise _cannot(name, size, f"its patches of {patch[0]} px do not divide it", native)
    try:
        with torch.inference_mode():
            features = backbone.eval()(torch.zeros(2, 3, size, size))
    except Exception as error:  # what it raises depends on the architecture
        raise _cannot(name, size, str(error).split("\n")[0], native) from error
    if features.ndim != 2:
        raise ValueError(f"{KEY}: {name} gives features of shape {list(features.shape)[1:]} an image, not a vector")
    mean, std = (tuple(settings.get(part) or usual) for part, usual in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)))
    architecture = str(settings.get("architecture") or title)
    return Candidate(name, title, kind, architecture, backbone, mean, std)


def _cannot(name: str, size: int, said: str, native: int | None) -> ValueError:
    remedy = f"set evaluation.image_size to {native}, which it was made for, or" if native else "set another size, or"
    return ValueError(
        f"{KEY}: {name} cannot take images of {size} px ({said}); {remedy} leave it out: all backbones are judged on "
        "images of one size"
    )


def _of_timm(what: str, size: int, key: str, pretrained: bool) -> tuple[nn.Module, Mapping[str, Any]]:
    """A timm model for images of this size, and its settings."""
    base, _, tag = what.partition(".")
    full = timm_name(tag, key, base) if pretrained else base
    repository = timm_repository(full) if pretrained else full
    return _created(full, size, key, f"timm's weights of {full}", repository, pretrained)


def _created(
    source: str, size: int, key: str, what: str, repository: str, pretrained: bool
) -> tuple[nn.Module, Mapping[str, Any]]:
    """A timm model, with its position embedding interpolated where it has one for another size."""
    import timm

    settings: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0}
    try:
        try:
            model: Any = timm.create_model(source, **settings, img_size=size)
        except TypeError:  # one that takes images of any size has no such argument
            model = timm.create_model(source, **settings)
    except AssertionError as error:
        raise _cannot(key.removeprefix(f"{KEY}: "), size, str(error), None) from error
    except Exception as error:  # of the hub's library, its network library, or timm
        raise unavailable(key, what, repository, error, f"{KEY}: [hf:DIR]") from error
    return model, dict(model.pretrained_cfg)


def _of_hub(name: str, what: str, size: int, key: str) -> Candidate:
    """A repository's backbone, or a folder's: of transformers, or of timm."""
    folder = Path(what).expanduser()
    local = folder.is_dir()
    title = folder.resolve().name if local else what.rpartition("/")[2]
    try:
        config = json.loads((folder / "config.json" if local else download(what, "config.json")).read_text())
    except Exception as error:  # of the hub's library, its network library, or a damaged file
        if local or isinstance(error, ValueError):
            raise ValueError(f"{key}: it has no config.json that can be read ({_first(error)})") from error
        raise unavailable(key, f"the weights {name}", what, error, f"{KEY}: [hf:DIR]") from error
    if "architecture" in config:
        source = f"local-dir:{folder}" if local else f"hf-hub:{what}"
        backbone, settings = _created(source, size, key, f"the weights {name}", what, True)
        return _candidate(name, title, backbone, {**settings, "architecture": config["architecture"]}, size)
    try:
        model, _ = load_transformers(str(folder) if local else what, local)
        colours = read_colours(str(folder) if local else what, local)
        hub = HubBackbone(model)
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and not local:
            raise unavailable(key, f"the weights {name}", what, error, f"{KEY}: [hf:DIR]") from error
        raise ValueError(f"{key}: {_first(error)}") from error
    return _candidate(name, title, hub, {**colours, "architecture": config.get("model_type")}, size)


def _of_moco(name: str, file: str, architecture: str | None, size: int, key: str) -> Candidate:
    """A file of weights in any layout that `model.weights` takes."""
    path = Path(file)
    known = next((one for start, one in MOCO_BACKBONES.items() if path.name.startswith(start)), None)
    architecture = architecture or known
    if architecture is None:
        raise ValueError(f"{key}: which architecture it is of cannot be told from its name; write ?backbone=NAME")
    published, _ = read_weights(file, key, architecture)
    options = {"num_heads": published.heads} if published.heads is not None else {}
    try:
        holder = Holder(build_backbone(architecture, size, options=options), architecture, IMAGENET_MEAN, IMAGENET_STD)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
    load(holder, published, key)
    colours = {part: value for part in ("mean", "std") if (value := getattr(published, part)) is not None}
    return _candidate(
        name, path.name.partition(".")[0], holder.backbone, {**colours, "architecture": architecture}, size
    )


def _first(error: Exception) -> str:
    return str(error).split("\n")[0]
