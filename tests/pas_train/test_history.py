import csv
import resource
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger

from pas_train.history import History, keep_history, read_history


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """That of a run that logged six steps."""
    logger = CSVLogger(tmp_path, name="", version="")
    for step in range(6):
        logger.log_metrics({"train/loss": 1 / (step + 1)}, step)
        if step % 2:
            logger.log_metrics({"val/knn_top1": step / 10}, step)
    logger.save()
    return tmp_path


def goes_on(folder: Path, before: int | None, steps: range) -> list[dict[str, str]]:
    logger = CSVLogger(folder, name="", version="")
    keep_history(logger, before)
    for step in steps:
        logger.log_metrics({"train/loss": 9.0}, step)
    logger.save()
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("step", [4, 2])
def test_keep_history__up_to_the_step_that_the_run_goes_on_from(folder: Path, step: int) -> None:
    rows = goes_on(folder, step, range(step, 6))
    losses = [row for row in rows if row["train/loss"]]
    assert [int(row["step"]) for row in losses] == list(range(6))
    assert [float(row["train/loss"]) == 9 for row in losses] == [False] * step + [True] * (6 - step)
    assert [int(row["step"]) for row in rows if row["val/knn_top1"]] == list(range(1, step, 2))


def test_keep_history__a_run_from_the_start_begins_the_file_anew(folder: Path) -> None:
    assert [int(row["step"]) for row in goes_on(folder, 0, range(3))] == [0, 1, 2]


def test_keep_history__of_a_finished_run_is_whole(folder: Path) -> None:
    assert len(goes_on(folder, None, range(0))) == 9


def test_read_history__a_row_that_was_being_written_is_left_out(folder: Path) -> None:
    with open(folder / "metrics.csv", "a") as file:
        file.write("1")  # the beginning of step 17
    assert [int(row["step"]) for row in read_history(folder / "metrics.csv")] == [0, 1, 1, 2, 3, 3, 4, 5, 5]


def test_history__a_new_column_keeps_the_rows_before(folder: Path) -> None:
    writer = History(str(folder), read_history(folder / "metrics.csv", 2))
    for number in range(2):
        writer.log_metrics({"train/lr": 0.5, "train/loss": 0.25}, 7 + number)
        writer.save()
    assert read_history(folder / "metrics.csv")[1:] == [
        {"step": "1", "train/loss": "0.5"}, {"step": "1", "val/knn_top1": "0.1"},
        {"step": "7", "train/loss": "0.25", "train/lr": "0.5"}, {"step": "8", "train/loss": "0.25", "train/lr": "0.5"},
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["train/loss", "train/lr"])  # appended, or with a new column
def test_history__rows_wait_where_the_disk_is_full(folder: Path, name: str) -> None:
    path = folder / "metrics.csv"
    writer, before = History(str(folder), read_history(path)), path.read_bytes()
    writer.log_metrics({name: 0.25}, 6)
    # The disk's refusal by other means: no file of this process grows beyond this one's size and a little.
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 2, resource.RLIM_INFINITY))
    try:
        with pytest.warns(UserWarning, match=r"metrics\.csv cannot be written \(.*; its rows are kept"):
            writer.save()
        assert path.read_bytes() == before and [file.name for file in folder.iterdir()] == ["metrics.csv"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    writer.log_metrics({name: 0.125}, 7)
    writer.save()
    assert [row.get(name) for row in read_history(path)[-2:]] == ["0.25", "0.125"] and len(read_history(path)) == 11
