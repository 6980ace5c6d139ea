"""What is read of a program's output."""

import signal
import subprocess
from pathlib import Path

import pytest

from pas_train.sweeping.running import Interruptions, _last, _last_line, _results, duration


def test_interruptions__signal_before_the_process_is_there_reaches_it() -> None:
    with Interruptions() as interruptions, subprocess.Popen(["sleep", "60"]) as process:
        signal.raise_signal(signal.SIGTERM)
        interruptions.pass_to(process)
        assert process.wait(10) == -signal.SIGTERM


def test_results__are_where_the_last_line_of_the_kind_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a b").mkdir(parents=True)
    (tmp_path / "runs" / "a b" / "results.json").touch()
    (tmp_path / "ckpt.evaluation.json").touch()
    assert _results("run         old\nrun         runs/a b\nW&B         x\n") == (
        "runs/a b", Path("runs/a b/results.json"),
    )  # fmt: skip
    assert _results("figures     ckpt.evaluation.json\n") == ("ckpt.evaluation.json", Path("ckpt.evaluation.json"))
    assert _results("run         runs/gone\n") == ("runs/gone", None)
    assert _results("I run         x\n run  y\n") == (None, None)


def test_last__is_an_error_of_ours_alone_or_the_last_lines() -> None:
    said = "".join(f"line {number}\n\n" for number in range(20))
    assert _last(said) == [f"line {number}" for number in range(12, 20)]
    assert _last(said + "pas_train: error: it\nis so\n") == ["pas_train: error: it", "is so"]


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("$ python\n", "starts"),
        ("$ python\nGPU available: False\n", "GPU available: False"),
        ("data        5 images\nSeed set to 0\n", "data        5 images"),
        ("a bar 1/9\ra bar 2/9\r", "a bar 2/9"),
    ],
)
def test_last_line__prefers_ours(tmp_path: Path, log: str, line: str) -> None:
    (tmp_path / "log.txt").write_text("x\n" * 9000 + log)
    if line == "starts":
        (tmp_path / "log.txt").write_text(log)
    assert _last_line(tmp_path / "log.txt") == line


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (62, "1:02"), (3723, "1:02:03")])
def test_duration__counts_hours_where_there_are_any(seconds: float, text: str) -> None:
    assert duration(seconds) == text
