"""What is judged once is kept, and all ranks share the work."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import nn

from datamodules.annotated import Annotated, Kind, read_annotated
from datamodules.dense import BoxedImages, MaskedImages
from datamodules.labelled import read_labelled
from pas_train.evaluation.candidates import Candidate
from pas_train.evaluation.evaluation import Evaluation
from pas_train.evaluation.evaluation_set import EvaluationSet
from pas_train.evaluation.judging import Judged, Judging
from pas_train.evaluation.knn import Knn
from pas_train.evaluation.portable import portable_identity
from pas_train.evaluation.protocol import Figures, Protocol, Subject
from tests.pas_train.evaluation.dense_sets import save_boxed, save_masked

NAMES = ("trained", "untrained")


class Colour(nn.Module):
    """The mean of each colour."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale, self._calls = nn.Parameter(torch.tensor(scale)), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._calls += len(x)
        return x.mean(dim=(2, 3)) * self.scale


@dataclass
class Counted(Protocol):
    """Counts what it is asked; fails on a backbone of a certain scale."""

    level: int = 1
    fails: float = -1.0
    judged: ClassVar[list[str]] = []

    def names(self) -> list[str]:
        return ["counted"]

    def judge(self, subject: Subject) -> dict[str, Figures]:
        train, test = subject.features()
        assert isinstance(subject.backbone, Colour)
        if subject.backbone.scale.item() == self.fails:
            raise ValueError("the power is cut")
        self.judged.append(subject.name)
        return {"counted": {"top1": float(len(test.values)), "of": len(train.labels)}}


class OnImages(Counted):
    """Trains on images."""

    on_images: ClassVar[bool] = True

    def judge(self, subject: Subject) -> dict[str, Figures]:
        self.judged.append(subject.name)
        return {"counted": {"top1": 1.0}}


@dataclass
class OnMasks(Protocol):
    """Looks at masks."""

    on_images: ClassVar[bool] = True
    of: ClassVar[Kind] = "masks"

    def names(self) -> list[str]:
        return ["segmentation"]

    def judge(self, subject: Subject) -> dict[str, Figures]:
        assert isinstance(subject.train, MaskedImages) and isinstance(subject.test, MaskedImages)
        return {"segmentation": {"miou": len(subject.test) / len(subject.train)}}


@dataclass
class OnBoxes(OnMasks):
    """Looks at boxes."""

    of: ClassVar[Kind] = "boxes"

    def names(self) -> list[str]:
        return ["detection"]

    def judge(self, subject: Subject) -> dict[str, Figures]:
        assert isinstance(subject.train, BoxedImages) and isinstance(subject.test, BoxedImages)
        return {"detection": {"map": float(sum(map(len, subject.test.boxes)))}}


class Together(Counted):
    """Runs on all ranks."""

    on_images: ClassVar[bool] = True

    def judge(self, subject: Subject) -> dict[str, Figures]:
        ranks = torch.ones(1)
        dist.all_reduce(ranks)
        return {"counted": {"top1": float(ranks)}}


def save(folder: Path) -> EvaluationSet:
    for name, shades in (("train", (90, 150, 210)), ("test", (120, 180))):
        for label, channel in (("blue", 2), ("red", 0)):
            (folder / name / label).mkdir(parents=True)
            for shade in shades:
                Image.new("RGB", (12, 12), tuple(shade * (one == channel) for one in range(3))).save(
                    folder / name / label / f"{shade}.png"
                )
    return EvaluationSet("colours", str(folder / "train"), str(folder / "test"))


def judging(folder: Path, item: EvaluationSet, *protocols: Protocol, **more: Any) -> Judging:
    evaluation = Evaluation([item], **{"num_workers": 0, **more})
    evaluation.protocols = lambda: list(protocols)  # type: ignore[method-assign]
    return Judging(evaluation, folder, torch.device("cpu"), 8)


def candidates(*backbones: Colour) -> list[Candidate]:
    return [
        Candidate(name, name, name, "colour", backbone, (0.5,) * 3, (0.5,) * 3)  # type: ignore[arg-type]
        for name, backbone in zip(NAMES, backbones, strict=False)
    ]


def missing_on(rank: int) -> Iterator[Candidate]:
    yield from candidates(Colour())
    if rank == 1:
        raise FileNotFoundError("no weights here")
    yield from candidates(Colour(2.0))


@pytest.fixture(autouse=True)
def nothing_judged() -> None:
    Counted.judged.clear()


def test_judging__a_second_protocol_finds_the_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    item, backbone = save(tmp_path), Colour()
    judging(tmp_path, item, Counted()).run(candidates(backbone))
    assert backbone._calls == 10 and "colours trained: 10 images in" in capsys.readouterr().out
    judged = judging(tmp_path, item, Counted(), Knn(weighted=[])).run(candidates(backbone))
    assert backbone._calls == 10 and Counted.judged == ["colours"]
    said = capsys.readouterr().out
    assert f"features    colours trained: read from {tmp_path}/features" in said
    assert "judged      colours trained: counted as before" in said
    assert set(judged.evaluation["colours"]["trained"]) == {"counted", "knn"}


def test_judging__a_kill_between_two_backbones_goes_on(tmp_path: Path) -> None:
    item = save(tmp_path)
    with pytest.raises(ValueError, match="the power is cut"):
        judging(tmp_path, item, Counted(fails=2.0)).run(candidates(Colour(), Colour(2.0)))
    Counted.judged.clear()
    found = judging(tmp_path, item, Counted(fails=2.0)).run(candidates(Colour(), Colour(3.0)))
    assert Counted.judged == ["colours"]  # of the second alone
    assert set(found.evaluation["colours"]) == set(NAMES)


def test_judging__what_figures_depend_on_is_judged_anew(tmp_path: Path) -> None:
    item, backbone = save(tmp_path), Colour()

    def judged(*of: Colour, level: int = 1, **more: Any) -> int:
        Counted.judged.clear()
        judging(tmp_path, item, Counted(level), **more).run(candidates(*of))
        return len(Counted.judged)

    assert judged(backbone) == 1 and judged(backbone) == 0
    assert judged(backbone, level=2) == 1  # another setting of the protocol
    assert judged(Colour(1.1)) == 1  # other weights
    assert judged(backbone, image_size=6) == 1  # another transform
    assert judged(backbone) == 0
    assert judged(backbone, features_folder=str(tmp_path / "elsewhere")) == 1
    Image.new("RGB", (12, 12), (99, 0, 0)).save(tmp_path / "test" / "red" / "one more.png")
    assert judged(backbone) == 1  # other images


def test_judging__precision_of_features_or_of_training(tmp_path: Path) -> None:
    item = save(tmp_path)

    def judged(protocol: Protocol, training: str, precision: Any) -> int:
        made = judging(tmp_path, item, protocol, precision=precision)
        made.trainer = {"precision": training}
        before = len(Counted.judged)
        assert made.run(candidates(Colour())).protocols["colours"]["precision"] == precision
        return len(Counted.judged) - before

    assert judged(Counted(), "32", 32) == 1 and judged(Counted(), "bf16-mixed", 32) == 0
    assert judged(Counted(), "32", "bf16") == 1
    assert judged(OnImages(), "32", 32) == 1 and judged(OnImages(), "32", "bf16") == 0
    assert judged(OnImages(), "bf16-mixed", 32) == 1


def test_judging__damaged_figures_are_judged_anew(tmp_path: Path) -> None:
    item = save(tmp_path)
    judging(tmp_path, item, Counted()).run(candidates(Colour()))
    (kept,) = tmp_path.glob("features/judged/*/figures.json")
    kept.write_text(kept.read_text()[:20])
    found = judging(tmp_path, item, Counted()).run(candidates(Colour()))
    assert Counted.judged == ["colours"] * 2 and "counted" in found.evaluation["colours"]["trained"]


def test_judging__names_what_results_json_says(tmp_path: Path) -> None:
    judged = judging(tmp_path, save(tmp_path), Counted()).run(candidates(Colour()))
    entry = judged.protocols["colours"]
    assert entry["figures"] == {"counted": {"level": 1, "fails": -1.0}}
    assert (entry["train_images"], entry["test_images"], entry["classes"], entry["image_size"]) == (6, 4, 2, 8)
    assert {**judged.backbones["trained"], "identity": ""} == {
        "title": "trained", "kind": "trained", "architecture": "colour", "identity": "",
    }  # fmt: skip
    assert len(judged.backbones["trained"]["identity"]) == 16


def test_judging__of_no_data_set_makes_nothing(tmp_path: Path) -> None:
    assert Judging(Evaluation(), tmp_path, torch.device("cpu"), 8).run(candidates(Colour())) == Judged()
    assert not list(tmp_path.iterdir())


def test_told__is_the_same_for_a_copy_elsewhere(tmp_path: Path) -> None:
    save(tmp_path / "one"), save(tmp_path / "two")
    one, two = (read_labelled(tmp_path / name / "train") for name in ("one", "two"))
    os.utime(two.paths[0], (0, 0))
    assert portable_identity(one) == portable_identity(two) and one.fingerprint() != two.fingerprint()
    two.paths[0].write_bytes(two.paths[0].read_bytes() + b"\0")
    assert portable_identity(one) != portable_identity(read_labelled(tmp_path / "two" / "train"))


def test_told__of_masks_and_boxes_sees_what_changed_not_where_it_lies(tmp_path: Path) -> None:
    def known(place: str, boxes: bool) -> Annotated:
        folder = tmp_path / place
        item = (save_boxed if boxes else save_masked)(folder) if not folder.exists() else None
        return item.read_test(folder) if item else read_annotated(f"{folder}/test.csv", "key")

    assert (
        portable_identity(known("one", False))
        == portable_identity(known("two", False))
        != portable_identity(known("boxes", True))
    )
    Image.fromarray(np.eye(24, dtype=np.uint8)).save(tmp_path / "two" / "4-mask.png")
    assert portable_identity(known("one", False)) != portable_identity(known("two", False))
    boxed, other = (save_boxed(tmp_path / name).read_test(tmp_path) for name in ("b", "c"))
    assert isinstance(other, BoxedImages) and portable_identity(boxed) == portable_identity(other)
    assert portable_identity(boxed) != portable_identity(replace(other, boxes=[other.boxes[0] + 1, other.boxes[1]]))
    assert portable_identity(boxed) != portable_identity(replace(other, crowds=other.boxes))


def test_judging__each_set_by_the_protocols_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = [save(tmp_path), save_masked(tmp_path / "a"), save_boxed(tmp_path / "b")]
    made = judging(tmp_path, sets[0], Counted(), OnMasks(), OnBoxes())
    made.evaluation.datasets = sets
    judged = made.run(candidates(Colour()))
    assert {name: list(found["trained"]) for name, found in judged.evaluation.items()} == {
        "colours": ["counted"], "cloth": ["segmentation"], "tray": ["detection"],
    }  # fmt: skip
    assert judged.evaluation["tray"]["trained"]["detection"] == {"map": 1.0}
    assert {name: list(entry["figures"]) for name, entry in judged.protocols.items()} == {
        "colours": ["counted"], "cloth": ["segmentation"], "tray": ["detection"],
    }  # fmt: skip
    entry = judged.protocols["cloth"]
    assert (entry["train_images"], entry["test_images"], entry["classes"]) == (4, 2, 3)
    assert entry["image_size"] is entry["precision"] is None  # no figure of the set depends on them
    assert "judges nothing" not in capsys.readouterr().out
    made.evaluation.image_size = 6
    made.run(candidates(Colour()))
    said = capsys.readouterr().out
    assert "judged      cloth trained: segmentation as before" in said and "judged      colours" not in said


def test_judging__a_protocol_without_a_set_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judging(tmp_path, save(tmp_path), Counted(), OnMasks()).run(candidates(Colour()))
    assert (
        "evaluation  evaluation.segmentation judges nothing: none of evaluation.datasets has masks; give one such as "
        "{name: foodseg103, root: DIR}, or CSVs of path,mask, or set it to null"
    ) in capsys.readouterr().out


def test_judging__a_set_without_a_protocol_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judged = judging(tmp_path, save_masked(tmp_path / "a"), Counted()).run(candidates(Colour()))
    assert "evaluation  'cloth' is not judged: it has masks; set evaluation.segmentation: {}" in capsys.readouterr().out
    assert judged.evaluation == {"cloth": {"trained": {}}} and judged.protocols["cloth"]["figures"] == {}


def test_judging__a_set_of_masks_needs_no_features(tmp_path: Path) -> None:
    backbone = Colour()
    judged = judging(tmp_path, save_masked(tmp_path / "a"), Counted(), OnMasks()).run(candidates(backbone))
    assert judged.evaluation["cloth"]["trained"] == {"segmentation": {"miou": 0.5}} and backbone._calls == 0


def test_judging__two_ranks(two_ranks: Any, tmp_path: Path) -> None:
    item = save(tmp_path)

    def work(rank: int) -> None:
        dist.init_process_group("gloo")
        judged = judging(tmp_path, item, Counted(), Together()).run(candidates(Colour(), Colour(2.0)))
        figures = judged.evaluation["colours"]["untrained"]
        assert figures["counted"]["top1"] == 2.0  # of both ranks
        assert len(Counted.judged) == (2 if rank == 0 else 0)
        with pytest.raises(ValueError, match="the power is cut"):  # rank 0 fails, and nobody waits for ever
            judging(tmp_path, item, Counted(fails=2.0)).run(candidates(Colour(), Colour(2.0)))
        with pytest.raises(
            (ValueError, FileNotFoundError), match="no weights here"
        ):  # a baseline that rank 1 cannot load
            judging(tmp_path, item, Counted()).run(missing_on(rank))

    two_ranks(work)
