import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from pas_train.evaluation.candidates import Candidate
from pas_train.evaluation.evaluation import Evaluation, EvaluationSet
from pas_train.evaluation.judging import Judging
from pas_train.evaluation.knn import Knn
from pas_train.evaluation.linear import Linear
from tests.pas_train.evaluation.dense_sets import save_boxed, save_masked

MEAN = STD = (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red and blue images; those of the test set lie between the training set's shades."""
    folder = tmp_path_factory.mktemp("sets")
    for name, shades in (("train", (90, 150, 210)), ("test", (120, 180))):
        for label, channel in (("blue", 2), ("red", 0)):
            (folder / name / label).mkdir(parents=True)
            for shade in shades:
                colour = [10, 10, 10]
                colour[channel] = shade
                Image.new("RGB", (12, 12), tuple(colour)).save(folder / name / label / f"{shade}.png")
    return folder


class Mean(nn.Module):
    """The mean of each colour; or, blind, of none."""

    def __init__(self, blind: bool = False) -> None:
        super().__init__()
        self.blind = blind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = x.mean(dim=(2, 3))
        return torch.ones_like(means) if self.blind else means


def run(evaluation: Evaluation, workspace: Path, untrained: nn.Module | None = None) -> dict:
    backbones: list[tuple[Any, nn.Module | None]] = [("trained", Mean()), ("untrained", untrained), ("pixels", None)]
    candidates: list[Candidate] = [
        Candidate(name, name, name, "mean", backbone, MEAN, STD)
        for name, backbone in backbones
        if name == "trained" or name in evaluation.baselines and (name == "pixels" or backbone is not None)
    ]
    return Judging(evaluation, workspace, torch.device("cpu"), 8).run(candidates).evaluation


def colours(folder: Path, name: str = "colours", **more: str) -> EvaluationSet:
    return EvaluationSet(name, str(folder / "train"), str(folder / "test"), **more)


def top1(figures: dict) -> dict[str, float]:
    return {name: figures[name]["top1"] for name in ("knn", "linear") if name in figures}


def test_evaluation__a_figure_for_every_set_backbone_and_protocol(folder: Path, tmp_path: Path) -> None:
    evaluation = Evaluation([colours(folder), colours(folder, "again")], linear=Linear(60))
    figures = run(evaluation, tmp_path, Mean(blind=True))
    assert figures["colours"] == figures["again"]
    assert {name: top1(one) for name, one in figures["colours"].items()} == {
        "trained": {"knn": 1.0, "linear": 1.0},
        "untrained": {"knn": 0.5, "linear": 0.5},
        "pixels": {"knn": 1.0, "linear": 1.0},
    }


def test_evaluation__protocols_and_baselines_can_be_left_out(folder: Path, tmp_path: Path) -> None:
    evaluation = Evaluation([colours(folder)], baselines=[], linear=None)
    figures = run(evaluation, tmp_path, Mean())
    assert set(figures["colours"]) == {"trained"} and top1(figures["colours"]["trained"]) == {"knn": 1.0}
    evaluation = Evaluation([colours(folder)], linear=None)
    assert set(run(evaluation, tmp_path)["colours"]) == {"trained", "pixels"}  # no backbone before training


def test_evaluation__more_neighbours_than_images(folder: Path, tmp_path: Path) -> None:
    figures = run(Evaluation([colours(folder)], [], linear=None, knn=Knn(100)), tmp_path)
    assert figures["colours"]["trained"]["knn"]["top1"] == 1.0  # six votes, three a class: the nearest decides


def test_evaluation__sets_as_csv_and_in_the_workspace(folder: Path, tmp_path: Path) -> None:
    for name in ("train", "test"):
        with open(tmp_path / f"{name}.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["path", "colour"])
            rows.writerows([path, path.parent.name] for path in sorted((folder / name).rglob("*.png")))
    item = EvaluationSet("csv", "workspace:train.csv", "workspace:test.csv", label_column="colour")
    assert run(Evaluation([item], [], linear=None), tmp_path)["csv"]["trained"]["knn"]["top1"] == 1.0


def test_evaluation__test_class_that_training_lacks_is_an_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "green").mkdir()
    Image.new("RGB", (12, 12), "green").save(tmp_path / "green" / "a.png")
    item = EvaluationSet("colours", str(folder / "train"), str(tmp_path))
    with pytest.raises(ValueError, match=r"evaluation\.datasets 'colours': test .*lack: green"):
        run(Evaluation([item]), tmp_path)


def test_check__names_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    Evaluation([colours(folder)]).check(tmp_path)
    with pytest.raises(
        ValueError,
        match=r"evaluation\.baselines: pixel is unknown \(did you mean pixels\?\); choices: pixels, untrained",
    ):
        Evaluation(baselines=["pixel"]).check(tmp_path)
    missing = Evaluation([EvaluationSet("a", str(folder / "train"), "workspace:made/test")])
    with pytest.raises(FileNotFoundError, match=r"evaluation\.datasets: 'a': .*made/test does not exist"):
        missing.check(tmp_path)
    missing.check(tmp_path, made=True)  # the curation has yet to make it


def test_check__a_set_that_no_protocol_judges_names_the_section(folder: Path, tmp_path: Path) -> None:
    masked, boxed = save_masked(tmp_path / "a"), save_boxed(tmp_path / "b")
    for item, message in (
        (masked, r"'cloth' has masks: set evaluation\.segmentation: \{\}"),
        (boxed, r"'tray' has boxes: set evaluation\.detection: \{\}"),
    ):
        with pytest.raises(ValueError, match=rf"^evaluation\.datasets: {message}"):
            Evaluation([colours(folder), item]).check(tmp_path)
    with pytest.raises(ValueError, match=r"'colours' has a class for each image: set evaluation\.knn: \{\}"):
        Evaluation([colours(folder)], knn=None, linear=None).check(tmp_path)
