"""What is known of how a backbone came to be: its training, its data set, its figures, the licences of its images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from datamodules.files import read_json, sha256_file
from pas_train import curated
from pas_train.evaluation.candidates import identity
from pas_train.evaluation.screening import origin_of_checkpoint
from pas_train.records import epochs_after, remembered
from pas_train.results import FILE, VERSION


def of_training(content: Mapping[str, Any] | None, backbone: nn.Module, text: str) -> dict[str, Any]:
    """`training`, `data`, `evaluation` and `screening` of metadata.

    content: of a checkpoint of a training; None for others, of which nothing is known. backbone: as it was trained, by
    which its figures are found.
    """
    if content is None:
        return {}
    path = Path(text).expanduser()
    settings, steps = content.get("hyper_parameters") or {}, int(content["global_step"])
    folder = path.absolute().parents[1] if path.absolute().parent.name == "checkpoints" else None
    record = (remembered(folder) if folder is not None else None) or {"data": {}, "training": {}}
    told, batch = record["training"], record["training"].get("batch_size")
    training = {
        "method": told.get("method") or str(settings.get("_class_path", "")).rpartition(".")[2] or None,
        "epochs": epochs_after(record, steps) if batch else content.get("epoch"),
        "steps": steps,
        "seed": told.get("seed", settings.get("seed")),
        "batch_size": batch,
        "images_seen": steps * batch if batch else None,
        "start": settings.get("weights"),
    }
    origin = origin_of_checkpoint(dict(content), path) or {}
    data = {
        **{key: record["data"].get(key) for key in ("name", "images", "synthetic", "curated")},
        "identity": origin.get("identity"),
        "licences": licences(origin),
    }
    return {"training": training, "data": data, **_figures(path, folder, backbone)}


def licences(origin: Mapping[str, Any]) -> list[list[Any]]:
    """[licence, images] of the real images that a training saw, most frequent first; empty where that is not known."""
    parts = origin.get("parts") or [origin]
    counted: dict[str, int] = {}
    for part in parts:
        manifest = Path(str((part or {}).get("source") or ""))
        if manifest.name != "manifest.parquet" or not manifest.is_file():
            return []
        if sha256_file(manifest) != part["identity"] and curated.checksum_of_images(manifest) != part.get("images"):
            return []  # it holds other images since
        for name, number in curated.licences_of(manifest):
            counted[name] = counted.get(name, 0) + number
    return [[name, number] for name, number in sorted(counted.items(), key=lambda item: (-item[1], item[0]))]


def _figures(path: Path, folder: Path | None, backbone: nn.Module) -> dict[str, Any]:
    """The figures of these very weights, from the results of their run or of `evaluate`; both where there are both."""
    places = [path.with_suffix(".evaluation.json"), path.resolve().with_suffix(".evaluation.json")]
    places = [*([folder / FILE] if folder is not None else []), *places]
    own = identity(backbone)
    evaluation: dict[str, Any] = {}
    screening: dict[str, bool] = {}
    for place in dict.fromkeys(places):
        results = read_json(place)
        if not isinstance(results, dict) or results.get("version") != VERSION:
            continue
        if ((results.get("backbones") or {}).get("trained") or {}).get("identity") != own:
            continue
        for data_set, judged in results["evaluation"].items():
            evaluation[data_set] = {**evaluation.get(data_set, {}), **judged.get("trained", {})}
            screening[data_set] = bool((results.get("screening") or {}).get(data_set, {}).get("screened", True))
    return {"evaluation": evaluation, "screened": screening}
