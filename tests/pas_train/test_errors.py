import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from torch._utils import ExceptionWrapper

from datamodules.labelled import ImageFiles, LabelledDataset, LabelledImages, read_labelled
from pas_train.errors import deliberate, message_of, plainly, reported


def test_reported__our_own_error_is_one_paragraph(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, reported():
        read_labelled("nowhere", "evaluation.datasets")
    assert end.value.code == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("pas_train: error: evaluation.datasets: nowhere does not exist; give a folder")
    assert all(len(line) <= 118 for line in said.err.splitlines())


def test_reported__long_paths_are_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/very-long-folder" * 12
    with pytest.raises(SystemExit), reported():
        read_labelled(path)
    assert path in capsys.readouterr().err


def test_reported__a_failure_of_a_library_keeps_its_traceback() -> None:
    with pytest.raises(json.JSONDecodeError) as caught, reported():
        json.loads("{")
    assert not deliberate(caught.value)


def test_reported__an_exit_passes() -> None:
    with pytest.raises(SystemExit) as caught, reported():
        raise SystemExit(3)
    assert caught.value.code == 3


def test_reported__our_error_that_a_library_passes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), reported():
        try:
            read_labelled("nowhere")
        except FileNotFoundError as error:
            raise TypeError("no subtype fits") from error  # as jsonargparse does
    assert capsys.readouterr().err.startswith("pas_train: error: evaluation.datasets: nowhere does not exist")


def from_worker(dataset: LabelledDataset) -> None:
    """What torch's loader does with an error of its processes, without one."""
    try:
        dataset[0]
    except Exception:
        ExceptionWrapper(where="in DataLoader worker process 0").reraise()


def test_message_of__a_loaders_process(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"<html>404" * 20)
    broken = LabelledDataset(LabelledImages(ImageFiles([tmp_path / "a.png"]), np.zeros(1, np.int64), ["a"]), 8)
    mistaken = LabelledDataset(LabelledImages(ImageFiles([]), np.zeros(1, np.int64), ["a"]), 8)
    with pytest.raises(ValueError, match="in DataLoader worker process") as caught:
        from_worker(broken)
    assert message_of(caught.value) == (
        f"evaluation image {tmp_path}/a.png cannot be used (not_an_image); repair or remove it"
    )
    with pytest.raises(IndexError) as mistake:
        from_worker(mistaken)
    assert message_of(mistake.value) is None


def test_deliberate__only_what_our_lines_raise_as_a_message() -> None:
    with pytest.raises(FileNotFoundError) as ours:
        read_labelled("nowhere")
    assert deliberate(ours.value)
    assert not deliberate(ValueError("never raised"))
    with pytest.raises(AttributeError) as mistake:  # in one of our lines, but nothing that a person can mend
        LabelledDataset(None, 8)[0]  # type: ignore[arg-type]
    assert not deliberate(mistake.value)


def test_reported__a_reader_that_has_seen_enough_is_no_error() -> None:
    code = "from pas_train.errors import reported\nwith reported():\n    print('a line\\n' * 100_000)"
    command = f'"{sys.executable}" -c "$CODE" | head -n 1'
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, env={**os.environ, "CODE": code}
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "a line\n", "")


def test_plainly__a_warning_of_ours_is_one_paragraph_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    plainly()
    plainly()  # a second command of the same process
    ours, other = sys.modules[plainly.__module__].__file__, "elsewhere.py"
    said = warnings.formatwarning("step=3.ckpt is damaged. " * 8, UserWarning, str(ours), 7)
    assert said.startswith("pas_train: warning: step=3.ckpt is") and len(said.splitlines()) == 2
    assert warnings.formatwarning("slow", UserWarning, other, 7, "x").startswith("elsewhere.py:7: UserWarning: slow")


def test_reported__ctrl_c_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, reported():
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == "pas_train: stopped by Ctrl-C\n"
