"""Sweep files: found, read, and refused with the reason."""

from pathlib import Path

import pytest

from pas_train.configs import FOLDER
from pas_train.sweeping.sweep_file import DEFAULT_COMMAND, find_sweep, read_sweep_file

GOOD = "method: grid\nprogram: train.py\nparameters: {a: {values: [1]}}\n"


def read(folder: Path, text: str):
    (folder / "s.yaml").write_text(text)
    return read_sweep_file(folder / "s.yaml")


def test_read_sweep_file__defaults_are_wandbs(tmp_path: Path) -> None:
    sweep = read(tmp_path, GOOD)
    assert (sweep.name, sweep.command, sweep.run_cap, sweep.remarks) == ("s", DEFAULT_COMMAND, None, [])


def test_read_sweep_file__tells_what_needs_the_server(tmp_path: Path) -> None:
    (remark,) = read(tmp_path, GOOD + "early_terminate: {type: hyperband, min_iter: 3}\n").remarks
    assert "every run goes to its end" in remark


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", "no sweep file"),
        ("method: [\n", "is no valid yaml (line 2"),
        ("model: {}\ntrainer: {}\n", "is a yaml of `fit`, not a sweep file"),
        (GOOD.replace("grid", "bayes"), "chooses its runs on W&B's server"),
        (GOOD.replace("grid", "gird"), "method must be grid or random"),
        (GOOD + "paramters: {}\n", "unknown key paramters; did you mean parameters?"),
        (GOOD + "job: a\n", "of W&B Launch"),
        (GOOD + "run_cap: 0\n", "run_cap must be a whole number"),
        ("method: grid\nprogram: a\n", "parameters must name what varies"),
        ("method: grid\nparameters: {a: {values: [1]}}\n", "names no `program`"),
        (GOOD + "command: python train.py\n", "must be a list of words"),
        ("method: grid\nprogram: a\nparameters: {a: {min: 0.5, max: 1}}\n", "parameters.a is drawn"),
    ],
)
def test_read_sweep_file__names_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError) as error:
        read(tmp_path, text)
    assert said in str(error.value) and str(tmp_path / "s.yaml") in str(error.value)


def test_find_sweep__by_path_or_packaged_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    packaged = FOLDER / "sweeps" / "quickstart.yaml"
    for name in ("quickstart", "quickstart.yaml", "sweeps/quickstart", "sweeps/quickstart.yaml"):
        assert find_sweep(name) == packaged
    (tmp_path / "quickstart").write_text(GOOD)
    assert find_sweep("quickstart") == Path("quickstart")
    with pytest.raises(FileNotFoundError, match=r"did you mean sweeps/quickstart\.yaml"):
        find_sweep("quickstat")
