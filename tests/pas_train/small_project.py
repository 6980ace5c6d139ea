"""A small pool, small real models, labelled sets and the yaml that ties them together."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Callback, Trainer

from pas_train.__main__ import main
from tests.tiny import picture, save_clip, save_descriptor, save_pool

BACKBONE = {"channels": [4, 4, 8, 8], "layers": [1, 1, 1, 1]}


def save_classes(folder: Path, first: int, count: int = 4) -> Path:
    """Two class folders of pictures that are in no pool."""
    for label in range(2):
        (folder / f"class-{label}").mkdir(parents=True)
        for number in range(count):
            picture(first + 2 * number + label).save(folder / f"class-{label}" / f"{number}.png")
    return folder


def save_training(home: Path) -> dict[str, Any]:
    """35 images and two classes to judge on; returns the yaml of a training on them, without a curation."""
    (home / "images").mkdir()
    for number in range(35):
        picture(number).save(home / "images" / f"{number}.png")
    sets = [str(save_classes(home / name, first, 2)) for name, first in (("train", 1000), ("test", 2000))]
    config = settings(home) | {"curation": None, "evaluation": {}, "tracking": {"enabled": False}}
    config["data"]["init_args"] |= {"source": str(home / "images"), "knn_bank": sets[0], "knn_queries": sets[1]}
    return config


def settings(home: Path) -> dict[str, Any]:
    """The yaml as plain values; `workspace` is left to the test."""
    sets = {"train": str(home / "train"), "test": str(home / "test")}
    model = {
        "backbone": "resnet18", "backbone_options": BACKBONE, "small_images": True, "image_size": 32,
        "projector_hidden": 32, "projector_dim": 16, "warmup_epochs": 1, "base_lr": 0.01,
    }  # fmt: skip
    data = {"batch_size": 8, "image_size": 32, "num_workers": 0, "knn_bank": sets["train"], "knn_queries": sets["test"]}
    return {
        "seed_everything": 0,
        "pool": str(home / "pool"),
        "trainer": {
            "accelerator": "cpu", "devices": 1, "max_epochs": 2, "num_sanity_val_steps": 0, "log_every_n_steps": 1,
            "enable_progress_bar": False, "enable_model_summary": False,
        },
        "model": {"class_path": "pas_train.methods.MoCoV3", "init_args": model},
        "data": {"class_path": "datamodules.pretrain.PretrainDataModule", "init_args": data},
        "curation": {
            "domain": "patterns",
            "concepts": {"words": ["red squares", "blue circles", "green noise"]},
            "ingest": {"num_workers": 0},
            "embed": {
                "image_text": {"model": str(home / "clip"), "pretrained": None},
                "copy": {"model": str(home / "copy.pt"), "image_size": 24},
                "num_workers": 0,
            },
            "leakage": {"tests": [sets["test"]], "threshold": 0.99},
            "duplicates": {"threshold": 0.95},
            "text": None,
        },
        "evaluation": {"datasets": [{"name": "cells", **sets}], "linear": {"epochs": 2}},
        "tracking": {"offline": True},
    }  # fmt: skip


def save_project(home: Path) -> Path:
    """Everything that `settings` names, and small.yaml."""
    save_clip(home / "clip")
    save_descriptor(home / "copy.pt")
    save_pool(home / "pool")
    save_classes(home / "train", 1000)
    save_classes(home / "test", 1006)  # some of its pictures are in train
    (home / "small.yaml").write_text(yaml.safe_dump(settings(home)))
    return home


def pas(command: str, home: Path, workspace: Path, *more: object) -> int:
    """Runs one command with small.yaml in this process; the exit status."""
    arguments = [command, "--config", str(home / "small.yaml"), "--workspace", str(workspace), *map(str, more)]
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def refused(capsys: pytest.CaptureFixture[str], command: str, home: Path, workspace: Path, *more: object) -> str:
    """What a command says that ends with an error: one paragraph on stderr, returned as one line."""
    capsys.readouterr()
    assert pas(command, home, workspace, *more) != 0
    before, begin, said = capsys.readouterr().err.strip().rpartition("pas_train: error: ")
    assert begin and "Traceback" not in before, before + said
    assert "\n\n" not in said and len(said.splitlines()) <= 6, said
    return " ".join(said.split())


def run_of(workspace: Path) -> Path:
    """The folder of the one training of a workspace."""
    (folder,) = (workspace / "training").iterdir()
    return folder


def last(workspace: Path) -> Path:
    """Its newest checkpoint."""
    return run_of(workspace) / "checkpoints" / "last.ckpt"


class KilledMidway(Callback):
    """As kill -9 does, in the second epoch's third step."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 8:
            os.kill(os.getpid(), signal.SIGKILL)


class Interrupted(Callback):
    """As Ctrl-C does, between the epochs."""

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)
