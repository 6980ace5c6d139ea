import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from pas_train.fitting import backbone_of, keep_history
from pas_train.runs import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that logged six steps and has checkpoints of steps 2 and 4."""
    run = Run(tmp_path, {"model": {"class_path": "a.MoCoV3"}, "data": {}, "trainer": {}}, None)
    logger = CSVLogger(run.folder, name="", version="")
    for step in range(6):
        logger.log_metrics({"train/loss": 1 / (step + 1)}, step)
        if step % 2:
            logger.log_metrics({"val/knn_top1": step / 10}, step)
    logger.save()
    run.checkpoints.mkdir()
    torch.save({"global_step": 2}, run.checkpoints / "epoch=0.ckpt")
    torch.save({"global_step": 4}, run.checkpoints / "last.ckpt")
    return run


def goes_on(run: Run, start: Path | None, steps: range) -> list[dict[str, str]]:
    logger = CSVLogger(run.folder, name="", version="")
    keep_history(logger, run, start)
    for step in steps:
        logger.log_metrics({"train/loss": 9.0}, step)
    logger.save()
    with open(run.folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("name", "step"), [("last.ckpt", 4), ("epoch=0.ckpt", 2)])
def test_keep_history__up_to_the_checkpoint_that_the_run_goes_on_from(run: Run, name: str, step: int) -> None:
    rows = goes_on(run, run.checkpoints / name, range(step, 6))
    losses = [row for row in rows if row["train/loss"]]
    assert [int(row["step"]) for row in losses] == list(range(6))
    assert [float(row["train/loss"]) == 9 for row in losses] == [False] * step + [True] * (6 - step)
    assert [int(row["step"]) for row in rows if row["val/knn_top1"]] == list(range(1, step, 2))


def test_keep_history__a_run_from_the_start_begins_the_file_anew(run: Run) -> None:
    assert [int(row["step"]) for row in goes_on(run, None, range(3))] == [0, 1, 2]


def test_keep_history__of_a_finished_run_is_whole(run: Run) -> None:
    run.mark_trained(6, 3)
    assert len(goes_on(run, run.last, range(0))) == 9


def test_backbone_of__module_without_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model: Linear has no backbone to evaluate; use a class of pas_train"):
        backbone_of(nn.Linear(1, 1))  # type: ignore[arg-type]
