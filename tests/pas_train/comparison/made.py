"""Results of trainings that never were, in the format of pas_train/results.py."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

CONFIG = """\
seed_everything: {seed}
trainer:
  max_epochs: {epochs}
  devices: 1
model:
  class_path: pas_train.methods.{method}
  init_args:
    backbone: {backbone}
    temperature: {temperature}
    seed: 0
data:
  class_path: datamodules.pretrain.PretrainDataModule
  init_args:
    source: {name}
    batch_size: 256
    knn_bank: food-101:food?split=train
    knn_queries: food-101:food?split=test
evaluation:
  datasets: []
"""


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def figures(top1: float, images: int = 1000, **more: Any) -> dict[str, Any]:
    half = 1.96 * (top1 * (1 - top1) / images) ** 0.5
    top5 = 1 - (1 - top1) / 3
    return {"top1": top1, "top5": top5, "mean_per_class": top1 - 0.01, "interval": [top1 - half, top1 + half], **more}


def judged(top1: float, names: tuple[str, ...] = ("knn", "linear")) -> dict[str, Any]:
    """Figures of all protocols around an accuracy."""
    told: dict[str, Any] = {}
    for place, name in enumerate(names):
        if name == "ncti":
            told[name] = {"ncc": top1, "seli": 100 * top1, "vc": 3 - top1}
        elif name == "logme":
            told[name] = {"score": top1 - 0.2}
        elif name == "segmentation":
            told[name] = {"miou": top1 / 2, "macc": top1 / 2 + 0.1, "accuracy": 0.9}
        elif name == "detection":
            told[name] = {"map": top1 / 2, "map50": top1 / 2 + 0.2, "map75": top1 / 2 + 0.1}
        else:
            told[name] = figures(min(0.99, max(0.02, top1 + 0.04 * place)))
    return told


def result(
    name: str = "food", seed: int = 0, top1: float = 0.6, data_sets: tuple[str, ...] = ("food-101", "foodx-251"),
    names: tuple[str, ...] = ("knn", "linear"), images: int = 1_200_000, epochs: int = 300, method: str = "MoCoV3",
    backbone: str = "vit_base_patch16_224", domain: str = "food", k: int = 1, image_size: int = 224,
    curated: bool = True, screened: bool = True, temperature: float = 0.2,
    published: dict[str, float] | None = None, baselines: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """A training's results, its baselines around it."""
    draw = random.Random(repr((name, seed, method, backbone, temperature, epochs)))
    identity = digest(name, images)
    run = f"{method.lower()}-{name}-{digest(name, seed, backbone, epochs, temperature, k)[:8]}"
    kinds = {"trained": (f"trained on {name}", "trained", backbone, digest(run))}
    if baselines:
        kinds["untrained"] = ("untrained", "untrained", backbone, digest(backbone, seed))
        kinds["pixels"] = ("raw pixels", "pixels", "", "pixels")
    kinds |= {one: (one, "published", one.removeprefix("timm:"), digest(one)) for one in published or {}}
    level = {"trained": top1, "untrained": 0.08, "pixels": 0.05, **(published or {})}
    evaluation = {}
    for place, data_set in enumerate(data_sets):
        evaluation[data_set] = {
            key: judged(level[key] - 0.06 * place + (draw.uniform(-0.01, 0.01) if key == "trained" else 0), names)
            for key in kinds
        }
    settings = {n: {"k": k} if n == "knn" else {"epochs": 100, "lr": None} if n == "linear" else {} for n in names}
    why = None if screened else "not among the tests of the leakage gate of runs/food"
    steps = epochs * images // 256
    curve = [
        {
            "images_seen": part * epochs * images // 20,
            "top1": top1 * (1 - 0.85 ** (part + 1)) + draw.uniform(-0.01, 0.01),
        }
        for part in range(1, 21)
    ]
    return {
        "version": 2, "run": run,
        "data": {"source": f"runs/{name}/dataset/full/manifest.parquet", "identity": identity, "name": name,
                 "images": images, "synthetic": images // 3 if curated else 0, "curated": curated},
        "training": {"method": method, "backbone": backbone, "seed": seed, "epochs": epochs, "steps": steps,
                     "batch_size": 256, "image_size": 224, "images_seen": steps * 256,
                     "forward_passes": 4 * steps * 256, "curve": curve},
        "labels": {"domain": domain, "group": domain, "tags": []},
        "screening": {one: {"screened": screened, "images": 1000, "unscreened": None, "why": why} for one in data_sets},
        "backbones": {key: dict(zip(("title", "kind", "architecture", "identity"), value, strict=True))
                      for key, value in kinds.items()},
        "protocols": {one: {"train": digest(one, "train"), "test": digest(one, "test"), "train_images": 5000,
                            "test_images": 1000, "classes": 101, "image_size": image_size, "figures": settings}
                      for one in data_sets},
        "evaluation": evaluation, "settings": {"evaluation": {}},
    }  # fmt: skip


def write(folder: Path, content: dict[str, Any], config: bool = True, temperature: float = 0.2) -> Path:
    """A run's folder with results.json, and config.yaml as a training leaves it."""
    place = folder / "training" / content["run"]
    place.mkdir(parents=True, exist_ok=True)
    (place / "results.json").write_text(json.dumps(content))
    if config:
        training = content["training"]
        values = {key: training[key] for key in ("seed", "epochs", "method", "backbone")}
        text = CONFIG.format(name=content["data"]["name"], temperature=temperature, **values)
        (place / "config.yaml").write_text(text)
    return place


PAPER: tuple[tuple[str, int, float, bool], ...] = (
    ("imagenet-1k", 1_281_167, 0.52, False), ("food-2k", 620_000, 0.60, False),
    ("pas-f", 1_200_000, 0.68, True), ("pas-f mini", 620_000, 0.63, True),
)  # fmt: skip


def paper(folder: Path, seeds: int = 3, names: tuple[str, ...] = ("knn", "linear"), **more: Any) -> Path:
    """The paper's comparison for food."""
    for name, images, top1, curated in PAPER:
        for seed in range(seeds):
            content = result(
                name, seed, top1, images=images, curated=curated, screened=curated, names=names,
                published={"timm:vit_base_patch16_224.augreg_in21k": 0.61}, **more,
            )  # fmt: skip
            write(folder / name.replace(" ", "-"), content)
    return folder
