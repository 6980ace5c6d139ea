"""The packaged sweeps: their command expands, here as at an agent, to lines that `fit` takes."""

import sys
from pathlib import Path

import pytest
import yaml

from pas_train.__main__ import main
from pas_train.configs import FOLDER
from pas_train.sweeping.expansion import check_command
from pas_train.sweeping.folder import plan_runs
from pas_train.sweeping.sweep_file import read_sweep_file
from tests.pas_train.sweeping.test_expansion import agents

SWEEPS = sorted((FOLDER / "sweeps").glob("*.yaml"))
COUNTS = {"quickstart": 6, "pretraining-sets": 24, "recipe": 24}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_packaged_sweep__expands_as_an_agents(path: Path) -> None:
    sweep = read_sweep_file(path)
    check_command(sweep.command)
    runs = plan_runs(sweep, Path("out"), 0, None)
    assert len({run.name for run in runs}) == len(runs) == COUNTS.get(path.stem, len(runs)) > 1
    for run in runs:
        theirs = agents(sweep.command, run.point, "", "")
        assert [word if word != sys.executable else "python" for word in run.line] == theirs
        assert run.line[3:5] == ["pas_train", "fit"]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_packaged_sweep__line_is_fits(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = read_sweep_file(path)
    run = plan_runs(sweep, Path("out"), 0, None)[-1]  # other tests parse all yamls that the runs name
    with pytest.raises(SystemExit, match="0"):
        main([*run.line[4:], "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["tracking"]["group"] and config["tracking"]["tags"] and config["tracking"]["notes"]
    assert config["evaluation"]["datasets"]
    assert config["data"]["init_args"]["source"] or config["curation"]
    for name, value in run.point.items():
        if name == "seed":
            assert config["model"]["init_args"]["seed"] == config["data"]["init_args"]["seed"] == value
        elif not name.startswith("config"):
            inner = config
            for part in name.split("."):
                inner = inner[part]
            assert inner == value, name


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_packaged_sweep__says_how_to_run_it_both_ways(path: Path) -> None:
    head = path.read_text().partition("name:")[0]
    assert f"wandb sweep configs/sweeps/{path.name}\n" in head and "wandb agent ENTITY/PROJECT/SWEEP\n" in head
    assert f"python -m pas_train sweep {path.stem}\n" in head
