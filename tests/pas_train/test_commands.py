"""Every command of the command line, on a small pool with small real models."""

import csv
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from datamodules.decoding import decode_rgb
from datamodules.labelled import LIMITS, centre_crop
from pas_train.methods import MoCoV3
from pas_train.results import read_results
from tests.pas_train.small_project import last, pas, run_of, settings

STEPS = 10  # two epochs of 40 kept images, eight a batch
Said = pytest.CaptureFixture[str]


@pytest.fixture
def signals() -> Iterator[None]:
    """Lightning leaves Ctrl-C switched off after one."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def logged_steps(workspace: Path, name: str = "train/loss") -> list[int]:
    with open(run_of(workspace) / "metrics.csv", newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row[name]]


def stamps(workspace: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in workspace.rglob("*") if path.is_file()}


def embeddings_by_hand(home: Path, checkpoint: Path, paths: list[Path]) -> np.ndarray:
    model = MoCoV3(**settings(home)["model"]["init_args"])
    model.load_state_dict(torch.load(checkpoint, weights_only=False)["state_dict"])
    images = np.stack([centre_crop(decode_rgb(path.read_bytes(), LIMITS), 32) for path in paths])
    with torch.inference_mode():
        return model.eval().backbone(model.normalise(torch.from_numpy(images))).numpy()


def read_embeddings(folder: Path) -> dict[str, np.ndarray]:
    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    rows = [row for table in tables for row in table.to_pylist()]
    assert len({row["key"] for row in rows}) == len(rows)
    return {row["key"]: np.array(row["embedding"], np.float32) for row in rows}


def test_fit__leaves_the_data_set_the_run_and_the_report(fitted: Path) -> None:
    run = run_of(fitted)
    assert json.loads((run / "trained.json").read_text()) == {"steps": STEPS, "epochs": 2}
    assert logged_steps(fitted) == list(range(STEPS)) and logged_steps(fitted, "val/knn_top1") == [4, 9]
    figures = json.loads((run / "results.json").read_text())["evaluation"]["cells"]
    assert set(figures) == {"trained", "untrained", "pixels"}
    assert all(0 <= figures[name][protocol]["top1"] <= 1 for name in figures for protocol in ("knn", "linear"))
    assert (fitted / "report" / "index.html").exists() and list((run / "wandb").glob("offline-run-*"))
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["temperature"] == 0.2
    untrained = torch.load(run / "checkpoints" / "untrained.pt")
    trained = torch.load(last(fitted), weights_only=False)["state_dict"]
    assert all(name in {key.removeprefix("backbone.") for key in trained} for name in untrained)
    assert not torch.equal(untrained["conv1.weight"], trained["backbone.conv1.weight"])


def test_fit__second_one_does_nothing(home: Path, fitted: Path, capsys: Said) -> None:
    before, began = stamps(fitted / "training"), time.process_time()
    assert pas("fit", home, fitted) == 0
    assert time.process_time() - began < 5
    said = capsys.readouterr().out
    assert "training    finished before" in said and "the data set is finished" in said and "starts" not in said
    assert stamps(fitted / "training") == before


def test_fit__its_own_config_is_the_same_run(fitted: Path, home: Path, tmp_path: Path, capsys: Said) -> None:
    shutil.copy(run_of(fitted) / "config.yaml", tmp_path / "small.yaml")
    assert pas("fit", tmp_path, fitted) == 0
    assert "training    finished before" in capsys.readouterr().out


def test_fit__goes_on_after_a_kill(home: Path, fitted: Path, curated: Path, capsys: Said) -> None:
    child = os.fork()
    if child == 0:
        pas(
            "fit", home, curated, "--tracking.enabled", "false",
            "--trainer.callbacks", "tests.pas_train.small_project.KilledMidway",
        )  # fmt: skip
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (run_of(curated) / "results.json").exists()
    assert pas("fit", home, curated, "--tracking.enabled", "false") == 0
    assert f"goes on from {last(curated)}" in capsys.readouterr().out
    assert logged_steps(curated) == list(range(STEPS)) and logged_steps(curated, "val/knn_top1") == [4, 9]
    assert logged_steps(curated, "train/replaced_images") == [4, 9]
    states = [torch.load(last(space), weights_only=False)["state_dict"] for space in (fitted, curated)]
    assert run_of(fitted).name == run_of(curated).name
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_fit__saves_every_epoch_also_where_validations_are_rare(home: Path, curated: Path) -> None:
    more = ("--trainer.max_epochs", 1, "--trainer.check_val_every_n_epoch", 5, "--tracking.enabled", "false")
    assert pas("fit", home, curated, *more) == 0
    assert last(curated).exists()


def test_fit__goes_on_after_an_interrupt(home: Path, curated: Path, capsys: Said, signals: None) -> None:
    more = ["--tracking.enabled", "false"]
    assert pas("fit", home, curated, *more, "--trainer.callbacks", "tests.pas_train.small_project.Interrupted") != 0
    assert not (run_of(curated) / "trained.json").exists()
    assert pas("fit", home, curated, *more) == 0
    assert f"goes on from {last(curated)}" in capsys.readouterr().out
    assert logged_steps(curated) == list(range(STEPS))


def test_fit__sensitivity_runs_select_alone_again(home: Path, curated: Path, capsys: Said) -> None:
    more = ["--tracking.enabled", "false", "--trainer.max_epochs", "1", "--evaluation.datasets", "[]"]
    assert pas("fit", home, curated, "--curation.select.sensitivity", "3.0", *more) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "runs again" in line or "starts" in line]
    assert lines[0] == "select     runs again (sensitivity 1.0 -> 3.0)"
    assert [line.split()[0] for line in lines] == ["select", "training"]


def test_curate__builds_what_fit_builds(home: Path, fitted: Path, tmp_path: Path, capsys: Said) -> None:
    assert pas("curate", home, tmp_path / "ws") == 0
    name = "dataset/full/manifest.parquet"
    assert (tmp_path / "ws" / name).read_bytes() == (fitted / name).read_bytes()
    assert pas("curate", home, tmp_path / "ws") == 0
    assert "the data set is finished" in capsys.readouterr().out


def test_curate__takes_the_config_of_a_run(fitted: Path, curated: Path, tmp_path: Path, capsys: Said) -> None:
    shutil.copy(run_of(fitted) / "config.yaml", tmp_path / "small.yaml")
    assert pas("curate", tmp_path, curated, "--curation.select.sensitivity", "3.0") == 0
    assert "select     runs again (sensitivity 1.0 -> 3.0)" in capsys.readouterr().out


def test_evaluate__gives_the_figures_of_fit(home: Path, fitted: Path, capsys: Said) -> None:
    results = read_results(run_of(fitted) / "results.json")
    assert list(results["backbones"]) == ["trained", "untrained", "pixels"]
    for command in ("evaluate", "test"):
        assert pas(command, home, fitted, "--ckpt_path", last(fitted)) == 0
        path = last(fitted).with_suffix(".evaluation.json")
        figures = read_results(path)
        path.unlink()
        assert figures.pop("step") == STEPS and Path(figures.pop("checkpoint")) == last(fitted)
        assert figures == results
        assert "k-NN cells" in capsys.readouterr().out


def test_validate__gives_the_last_accuracy_of_fit(home: Path, fitted: Path, capsys: Said) -> None:
    assert pas("validate", home, fitted, "--ckpt_path", last(fitted)) == 0
    with open(run_of(fitted) / "metrics.csv", newline="") as file:
        value = [float(row["val/knn_top1"]) for row in csv.DictReader(file) if row["val/knn_top1"]][-1]
    said = capsys.readouterr().out
    assert "val/knn_top1" in said and f"{value:g}" in said


def test_predict__is_the_backbone_applied_to_each_image(home: Path, fitted: Path, capsys: Said) -> None:
    assert pas("predict", home, fitted, "--ckpt_path", last(fitted)) == 0
    assert "40 of 40 images" in capsys.readouterr().out
    found = read_embeddings(fitted / "embeddings" / "last")
    keys = pq.read_table(fitted / "dataset/full/manifest.parquet")["key"].to_pylist()
    assert list(found) == keys
    expected = embeddings_by_hand(home, last(fitted), [home / "pool" / key for key in keys])
    np.testing.assert_allclose(np.stack([found[key] for key in keys]), expected, rtol=1e-4, atol=1e-5)


def test_predict__leaves_out_what_cannot_be_read(home: Path, fitted: Path, tmp_path: Path, capsys: Said) -> None:
    more = ["--ckpt_path", last(fitted), "--data.init_args.source", home / "pool", "--output", tmp_path / "out"]
    assert pas("predict", home, fitted, *more) == 0
    assert "45 of 48 images; 3 could not be read" in capsys.readouterr().out
    found = read_embeddings(tmp_path / "out")
    assert len(found) == 45 and not {"empty.jpg", "page.jpg", "cut.png"} & set(found)
    expected = embeddings_by_hand(home, last(fitted), [home / "pool" / "039.png"])
    np.testing.assert_allclose(found["039.png"], expected[0], rtol=1e-4, atol=1e-5)


def test_predict__two_ranks_share_the_images(home: Path, fitted: Path, tmp_path: Path, two_ranks) -> None:
    def work(rank: int) -> None:
        more = ["--ckpt_path", last(fitted), "--output", tmp_path / "out", "--trainer.devices", 2]
        assert pas("predict", home, fitted, *more, "--trainer.strategy", "ddp") == 0

    two_ranks(work)
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 2
    assert len(read_embeddings(tmp_path / "out")) == 40


def test_select__writes_a_smaller_data_set(home: Path, curated: Path, capsys: Said) -> None:
    assert pas("select", home, curated, "--size", 5) == 0
    small, full = (pq.read_table(curated / f"dataset/{name}/manifest.parquet") for name in ("size-5", "full"))
    assert "size-5/manifest.parquet: 5 images" in capsys.readouterr().out
    assert small.num_rows == 5 and set(small["key"].to_pylist()) < set(full["key"].to_pylist())


def test_report__writes_the_page_and_the_card_anew(home: Path, curated: Path, capsys: Said) -> None:
    page, card = curated / "report" / "index.html", curated / "dataset" / "full" / "README.md"
    before = card.read_bytes()  # what the selection wrote
    page.unlink()
    card.unlink()
    assert pas("report", home, curated) == 0
    said = capsys.readouterr().out
    assert str(page) in said and "<html" in page.read_text()
    assert str(card) in said and card.read_bytes() == before


def test_trace__tells_the_fate_of_an_image(home: Path, fitted: Path, capsys: Said) -> None:
    assert pas("trace", home, fitted, "cut.png") == 0
    story, _, columns = capsys.readouterr().out.partition("\n\n")
    assert "readable    no: truncated\nfate        dropped: unreadable" in story
    said = dict(line.split(maxsplit=1) for line in columns.splitlines())
    assert said["reason"] == "truncated" and said["drop_reason"] == "unreadable"


def test_fit__last_checkpoint_is_the_end_also_where_few_are_saved(home: Path, curated: Path) -> None:
    more = ("--trainer.max_epochs", 1, "--checkpoint.every_n_epochs", 5, "--tracking.enabled", "false")
    assert pas("fit", home, curated, *more) == 0
    assert torch.load(last(curated), weights_only=False)["epoch"] == 1  # done, not begun


def test_doctor__says_what_is_missing_and_ends_with_status_1(home: Path, curated: Path, capsys: Said) -> None:
    assert pas("doctor", home, curated) == 0
    said = capsys.readouterr().out
    assert "nothing to mend" in said and "ok    images      every file of the 48 indexed rows is there" in said
    assert pas("doctor", home, curated, "--curation.embed.copy.model", "sscd_disc_large.torchscript.pt") == 1
    said = capsys.readouterr().out
    assert (
        "fail  embed       curation.embed.copy.model: sscd_disc_large.torchscript.pt is neither in the current" in said
    )
    assert "sscd_disc_large, MIT, 0.18 GB" in " ".join(said.split()) and "1 of " in said.splitlines()[-1]
    assert pas("doctor", home, curated.parent / "new", "--curation.concepts.file", "none.txt") == 1
    said = capsys.readouterr().out
    assert "fail  concepts    curation.concepts.file: none.txt does not exist" in said and "tracking" in said
