"""The command `export`, on the checkpoint of a run with its results."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
import yaml

from pas_train.__main__ import main
from pas_train.evaluation.candidates import identity
from pas_train.exporting.to_timm import Timm
from pas_train.results import results_of
from tests.pas_train.published import method, own, shaken

Said = pytest.CaptureFixture[str]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder: last.ckpt, its record and its results, one of which is of other weights."""
    folder = tmp_path / "ws" / "training" / "mocov3-full-1234"
    (folder / "checkpoints").mkdir(parents=True)
    model = method()
    shaken(model)
    own(folder / "checkpoints" / "last.ckpt", model)
    (folder / "config.yaml").write_text("model: {}\n")
    training = {"method": "MoCoV3", "seed": 7, "batch_size": 8}
    data = {"name": "patterns", "images": 24, "synthetic": 4, "curated": True}
    (folder / "record.json").write_text(json.dumps({"data": data, "training": training}))
    judged = {"cells": {"trained": {"knn": {"top1": 0.625, "interval": [0.5, 0.75]}, "logme": {"score": 1.5}}}}
    screening = {"cells": {"screened": False, "why": "a trial"}}
    for name, weights in (("results.json", identity(model.backbone)), ("checkpoints/last.evaluation.json", "other")):
        told = results_of("run", {}, judged, screening=screening, backbones={"trained": {"identity": weights}})
        (folder / name).write_text(json.dumps(told))
        judged = {"others": {"trained": {"knn": {"top1": 0.1}}}}
    return folder


def export(run: Path, *more: str) -> int:
    try:
        return main(["export", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), *more])
    except SystemExit as end:
        return int(end.code or 0)


def test_export__what_it_prints_and_where_it_writes(run: Path, capsys: Said) -> None:
    assert export(run, "--to", "timm,plain") == 0
    backbone, first, second = capsys.readouterr().out.splitlines()
    assert backbone.startswith("backbone    mocov3-full-1234: test_vit (depth 2, img_size 64), 0.1 M parameters")
    assert first.startswith(f"exported    {run}/export/timm: verified by timm ")
    assert "greatest difference 0.0 (values up to " in first
    assert second.startswith(f"exported    {run}/export/plain: verified by timm ")
    assert export(run, "--to", "timm", "--image_size", "32") == 0
    assert sorted(path.name for path in (run / "export").iterdir()) == ["plain", "timm", "timm-32"]
    capsys.readouterr()
    assert export(run, "--to", "timm") == 1
    assert f"--output: {run}/export/timm exists; remove it" in " ".join(capsys.readouterr().err.split())


def test_export__metadata_and_card_tell_the_training(run: Path, tmp_path: Path) -> None:
    assert export(run, "--to", "timm", "--out", str(tmp_path / "out")) == 0
    told = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert told["training"] == {
        "method": "MoCoV3", "epochs": 1, "steps": 3, "seed": 7, "batch_size": 8, "images_seen": 24, "start": None
    }  # fmt: skip
    assert told["data"]["name"] == "patterns" and list(told["evaluation"]) == ["cells"]  # of other weights: not told
    card = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["pipeline_tag"] == "image-feature-extraction" and {"mocov3", "backbone"} <= set(front["tags"])
    assert "| cells † | k-NN | top-1 62.5 (95 %: 50.0 to 75.0) |" in card and "| cells † | LogME | 1.500 |" in card
    assert "Of the images of the data set no licences are known." in card and "4 images are synthetic" in card
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["pas_train"]["training"]["seed"] == 7


def test_export__one_bad_target_and_nothing_is_written(run: Path, capsys: Said) -> None:
    for to, said in (("timm,tim", "--to tim is unknown; did you mean timm?"), (",", "--to names no target")):
        assert export(run, "--to", to) == 1
        assert said in " ".join(capsys.readouterr().err.split())
    assert export(run) == 2
    assert "--to" in capsys.readouterr().err
    assert not (run / "export").exists()


def test_export__one_that_fails_does_not_keep_the_others(
    run: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(self: Timm, source: object, folder: Path) -> None:
        raise KeyError("norm")

    monkeypatch.setattr(Timm, "write", write)
    assert export(run, "--to", "timm,mmdet,plain") == 1
    told = capsys.readouterr()
    assert [line.split()[0] for line in told.out.splitlines()] == ["backbone", "exported"]
    errors = " ".join(told.err.split())
    assert errors.startswith("pas_train: error: --to mmdet: MMDetection has no plain vision transformer")
    assert "KeyError: 'norm'" in errors and "error: --to timm failed (KeyError)" in errors
    assert errors.endswith("pas_train: 2 of 3 not exported: mmdet, timm")
    assert [path.name for path in (run / "export").iterdir()] == ["plain"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_export__a_signal_leaves_nothing(
    run: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def write(self: Timm, source: object, folder: Path) -> None:
        (folder / "part").write_text("half")
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    monkeypatch.setattr(Timm, "write", write)
    assert export(run, "--to", "plain,timm") == 128 + number
    assert "pas_train: stopped; what is not told above was not exported" in capsys.readouterr().err
    assert os.listdir(run / "export") == ["plain"] and signal.getsignal(number) is before


def test_export__other_weights_go_to_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said) -> None:
    monkeypatch.chdir(tmp_path)
    model = method()
    torch.save({f"module.{name}": value for name, value in model.backbone.state_dict().items()}, "net.pth")
    with pytest.raises(SystemExit):
        main(["export", "--ckpt_path", "net.pth", "--to", "plain"])
    assert "name it as timm does, with --backbone" in " ".join(capsys.readouterr().err.split())
    small = method(backbone="resnet18", backbone_options={})
    torch.save(small.backbone.state_dict(), "my net.v1.pth")
    assert main(["export", "--ckpt_path", "my net.v1.pth", "--to", "plain", "--image_size", "64"]) == 0
    assert "exported    exports/my-net-plain-64: verified" in capsys.readouterr().out
