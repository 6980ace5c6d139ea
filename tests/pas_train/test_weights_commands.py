"""Published weights from the command line."""

import csv
import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from pas_train.methods import MoCoV3
from tests.pas_train.small_project import KilledMidway, last, pas, refused, run_of, settings

Said = pytest.CaptureFixture[str]


def official(home: Path, path: Path) -> nn.Module:
    """A checkpoint in MoCo v3's own layout for the model of small.yaml; returns its backbone."""
    model = MoCoV3(**settings(home)["model"]["init_args"], seed=7)
    names = {
        "backbone": "base_encoder", "projector": "base_encoder.fc", "predictor": "predictor",
        "momentum_backbone": "momentum_encoder", "momentum_projector": "momentum_encoder.fc",
    }  # fmt: skip
    parts = (name.partition(".") for name in model.state_dict())
    state = {f"module.{names[part]}.{rest}": model.state_dict()[f"{part}.{rest}"] for part, _, rest in parts}
    torch.save({"epoch": 300, "arch": "resnet18", "state_dict": state}, path)
    return model.backbone


def test_evaluate__official_checkpoint(home: Path, curated: Path, tmp_path: Path, capsys: Said) -> None:
    path = tmp_path / "r-50-300ep.pth.tar"
    official(home, path)
    assert pas("evaluate", home, curated, "--ckpt_path", path) == 0
    said = capsys.readouterr().out
    assert "weights     r-50-300ep.pth.tar: official MoCo v3, all " in said
    assert "not screened: the backbone was not trained on a data set that was curated here" in " ".join(said.split())
    told = json.loads((curated / "evaluation" / "r-50-300ep.pth.evaluation.json").read_text())
    assert told["step"] is None and 0 <= told["evaluation"]["cells"]["trained"]["knn"]["top1"] <= 1
    assert pas("validate", home, curated, "--ckpt_path", path) == 0
    assert pas("predict", home, curated, "--ckpt_path", path, "--output", tmp_path / "out") == 0
    assert list((tmp_path / "out").glob("*.parquet"))


def test_evaluate__weights_of_another_backbone(home: Path, curated: Path, tmp_path: Path, capsys: Said) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "a.pth")
    said = refused(capsys, "evaluate", home, curated, "--ckpt_path", tmp_path / "a.pth")
    assert "--ckpt_path: a.pth (a backbone's state dict) does not fit model.backbone resnet18" in said
    assert "it has besides 2 tensors (weight, bias)" in said


def test_fit__missing_weights_are_told_before_anything_is_made(home: Path, tmp_path: Path, capsys: Said) -> None:
    said = refused(capsys, "fit", home, tmp_path / "ws", "--model.weights", "r-50-300ep.pth.tar")
    assert "model.weights: r-50-300ep.pth.tar does not exist. Download it from https://dl.fbaipublicfiles.com/" in said
    assert not (tmp_path / "ws").exists()


def test_doctor__names_weights_that_are_missing(home: Path, curated: Path, tmp_path: Path, capsys: Said) -> None:
    assert pas("doctor", home, curated, "--model.init_args.weights", "gone.pth") == 1
    assert "fail  start       model.weights: gone.pth does not exist." in capsys.readouterr().out
    official(home, tmp_path / "a.pth")
    assert pas("doctor", home, curated, "--model.init_args.weights", tmp_path / "a.pth") == 0
    assert "ok    start       " in capsys.readouterr().out


def test_fit__starts_from_weights_and_goes_on_without_them(
    home: Path, curated: Path, tmp_path: Path, capsys: Said
) -> None:
    path = tmp_path / "r-50-300ep.pth.tar"
    backbone = official(home, path)
    arguments = (home, curated, "--model.weights", path, "--tracking.enabled", "false")
    child = os.fork()
    if child == 0:
        callback = {"class_path": f"{KilledMidway.__module__}.{KilledMidway.__name__}"}
        pas("fit", *arguments, "--trainer.callbacks", json.dumps([callback]))
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    path.unlink()
    assert pas("fit", *arguments) == 0
    said = capsys.readouterr().out
    assert "goes on from" in said and "weights     " not in said

    folder = run_of(curated)
    start = torch.load(folder / "checkpoints" / "start.pt")
    assert all(torch.equal(start[name], value) for name, value in backbone.state_dict().items())
    untrained = torch.load(folder / "checkpoints" / "untrained.pt")
    random = MoCoV3(**settings(home)["model"]["init_args"]).backbone.state_dict()
    assert all(torch.equal(untrained[name], value) for name, value in random.items())
    results = json.loads((folder / "results.json").read_text())
    assert list(results["evaluation"]["cells"]) == ["trained", "start", "untrained", "pixels"]
    assert f"it started from {path}, whose images cannot be screened" in results["screening"]["cells"]["why"]
    with open(folder / "metrics.csv", newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert steps == list(range(steps[-1] + 1))
    assert torch.load(last(curated), weights_only=False)["data_set"]["workspace"] is None
