"""The command `sweep`, with real processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.files import read_json
from pas_train.sweeping import claims
from tests.pas_train.sweeping.small_sweep import begin_sweep, run_sweep, runs, save_sweep, states, wait_for


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))
    monkeypatch.setattr("pas_train.sweeping.command._compare", lambda state: print("compares"))
    return tmp_path


def test_sweep__shows_how_far_a_run_is(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_sweep(home, ["a"])
    said = ["training    step 1 of 2", "GPU available: False", "Seed set to 0"]
    (home / "program.py").write_text(f"import time\nfor line in {said}: print(line, flush=True)\ntime.sleep(1)")
    monkeypatch.setattr("pas_train.sweeping.running.PROGRESS_S", 0.3)
    run_sweep("s.yaml")
    assert capsys.readouterr().out.count("run 1/1        0:00  training    step 1 of 2\n") == 1


def test_sweep__runs_each_once_and_keeps_results(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_sweep(home, ["a", "b"])
    assert run_sweep("s.yaml") == 0
    said = capsys.readouterr().out
    assert "run 1/2     x=a" in said and "finished in 0:0" in said and "cells knn 50.0 %, plates mIoU 25.0 %" in said
    assert said.rstrip().endswith("compares") and states(home) == {"a": "finished", "b": "finished"}
    folder, entry = home / "runs" / "sweeps" / "s", runs(home)["b"]
    assert json.loads((folder / entry["results"]).read_text())["run"] == "b"
    assert (folder / entry["results"]).with_name("config.yaml").read_text() == "model: {}"
    assert (entry["run"], entry["attempts"], entry["exit"]) == ("training/b", 1, 0)
    assert "begins {'x': 'b'}" in (folder / entry["log"]).read_text()
    assert run_sweep("s.yaml") == 0
    said = capsys.readouterr().out
    assert "run 1/2" not in said and "2 finished" in said and runs(home)["a"]["attempts"] == 1


def test_sweep__failed_run_is_told_and_the_others_go_on(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_sweep(home, ["a", "bad", "c"])
    assert run_sweep("s.yaml") == 1
    said = capsys.readouterr().out
    assert "failed after 0:00 (exit status 3)" in said and "pas_train: error: x is bad" in said
    assert "begins" not in said.partition("ends:")[2].partition("run 3")[0]  # an error of ours alone
    assert "runs again what failed: 2" in said and "compares" in said
    assert states(home) == {"a": "finished", "bad": "failed", "c": "finished"}
    program = home / "program.py"
    program.write_text(program.read_text().replace('== "bad"', '== "other"'))
    assert run_sweep("s.yaml") == 0
    assert "x=bad (failed before)" in capsys.readouterr().out
    assert runs(home)["bad"]["attempts"] == 2 and runs(home)["bad"]["error"] is None


def test_sweep__run_whose_workspace_is_taken_comes_again(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_sweep(home, ["a", "b"])
    taken = "pas_train: error: workspace: another run writes to runs/food (here\\n  12); wait"
    refuse = f"import os, sys; os.path.exists('b') or (open(sys.argv[1][-1], 'w'), print('{taken}'), sys.exit(1))"
    (home / "program.py").write_text(refuse)
    monkeypatch.setattr("pas_train.sweeping.command.AGAIN_S", 0.5)
    monkeypatch.setattr("pas_train.sweeping.command.POLL_S", 0.05)
    assert run_sweep("s.yaml") == 0
    said = capsys.readouterr().out
    assert "run 1/2     comes later: workspace: another run writes to runs/food" in said and "failed" not in said
    assert {value: entry["attempts"] for value, entry in runs(home).items()} == {"a": 2, "b": 2}


def test_sweep__killed_leaves_nothing_running_and_goes_on(home: Path) -> None:
    save_sweep(home, ["a", "slow", "c"])
    with begin_sweep(home) as process:
        wait_for(lambda: states(home).get("slow") == "running" and "begins" in _log(home, "slow"))
        child = _claim(home, "slow")["child"]
        assert claims.process_start(child["pid"]) == child["started"]
        process.send_signal(signal.SIGKILL)
    wait_for(lambda: claims.process_start(child["pid"]) is None)
    (home / "go").touch()
    assert run_sweep("s.yaml") == 0
    assert states(home) == dict.fromkeys(["a", "slow", "c"], "finished")
    assert {value: entry["attempts"] for value, entry in runs(home).items()} == {"a": 1, "slow": 2, "c": 1}


def test_sweep__interrupted_ends_its_run_and_says_so(home: Path) -> None:
    save_sweep(home, ["slow", "c"])
    with begin_sweep(home) as process:
        wait_for(lambda: "slow" in states(home) and "begins" in _log(home, "slow"))
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "SIGTERM: this run saves and ends" in said and "the same command goes on with it" in said
    assert states(home) == {"slow": "stopped", "c": "waiting"}


def test_sweep__two_at_one_folder_share_the_runs(home: Path) -> None:
    save_sweep(home, ["slow", *"abcdef"])
    with begin_sweep(home) as first, begin_sweep(home) as second:
        wait_for(lambda: list(states(home).values()).count("finished") == 6)
        (home / "go").touch()
        said = [process.communicate()[0] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], said
    assert {entry["attempts"] for entry in runs(home).values()} == {1}
    assert set(states(home).values()) == {"finished"}
    assert sorted(text.count("still at work on") for text in said) == [0, 1]  # the one that ended first


def test_sweep__waits_for_a_silent_owner_and_takes_over(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_sweep(home, ["a"])
    assert run_sweep("s.yaml") == 0
    folder = home / "runs" / "sweeps" / "s" / "runs" / runs(home)["a"]["name"]
    claim = max(folder.glob("claim-*.json"))
    claim.write_text(json.dumps({**read_json(claim), "machine": "another", "host": "far", "released": False}))
    (folder / "run.json").write_text('{"state": "running", "attempts": 1, "seconds": 1.0}')
    assert run_sweep("s.yaml") == 0
    assert "1 still at work on far" in capsys.readouterr().out and states(home) == {"a": "running"}
    monkeypatch.setattr(claims, "STALE_S", 1.0)
    monkeypatch.setattr(claims, "SILENT_S", 0.0)
    monkeypatch.setattr("pas_train.sweeping.command.POLL_S", 0.05)
    assert run_sweep("s.yaml") == 0
    assert "x=a (goes on)" in capsys.readouterr().out and runs(home)["a"]["attempts"] == 2


def test_sweep__run_that_another_took_over_is_ended_here(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_sweep(home, ["slow"])
    monkeypatch.setattr("pas_train.sweeping.running.BEAT_S", 0.1)
    monkeypatch.setattr(claims.Claim, "beat", lambda self: False)
    assert run_sweep("s.yaml") == 0
    assert "another machine has taken it over" in capsys.readouterr().out
    assert claims.process_start(_claim(home, "slow")["child"]["pid"]) is None


def test_sweep__end_of_a_run_that_another_took_over_is_not_written(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_sweep(home, ["a"])
    monkeypatch.setattr(claims.Claim, "beat", lambda self: False)
    run_sweep("s.yaml")
    assert "another machine has taken it over" in capsys.readouterr().out and states(home)["a"] == "running"


def test_sweep__run_that_was_told_to_end_alone_is_no_success(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_sweep(home, ["a b"])
    (home / "program.py").write_text("import os; os.kill(os.getpid(), 15)")
    assert run_sweep("s.yaml") == 1
    assert "goes on with what was stopped: 1" in capsys.readouterr().out and states(home) == {"a b": "stopped"}
    assert "program.py '--x=a b'\n" in _log(home, "a b")  # to be copied from the log


def test_sweep__changed_file_leaves_earlier_runs_out(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_sweep(home, ["a", "b"])
    run_sweep("s.yaml")
    save_sweep(home, ["b", "c"])
    run_sweep("s.yaml")
    said = capsys.readouterr().out
    assert "1 earlier runs of this folder are of other settings, and left out" in said
    assert states(home) == {"b": "finished", "c": "finished"} and runs(home)["b"]["attempts"] == 1
    found = {json.loads(path.read_text())["run"] for path in (home / "runs").rglob("results.json")}
    assert found == {"b", "c"}
    save_sweep(home, ["a", "b"])
    run_sweep("s.yaml")
    assert runs(home)["a"]["attempts"] == 1
    assert {json.loads(path.read_text())["run"] for path in (home / "runs").rglob("results.json")} == {"a", "b"}


def test_sweep__another_version_at_work_is_not_disturbed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_sweep(home, ["slow"])
    with begin_sweep(home) as process:
        wait_for(lambda: states(home).get("slow") == "running")
        (home / "t.yaml").write_text((home / "s.yaml").read_text().replace("slow", "b"))
        assert run_sweep("t.yaml", "--out", "runs/sweeps/s") == 1
        assert "which t.yaml does not name" in " ".join(capsys.readouterr().err.split())
        (home / "go").touch()
        assert process.wait() == 0
    assert states(home) == {"slow": "finished"}


def test_sweep__changed_yaml_is_another_run(home: Path) -> None:
    (home / "own.yaml").write_text("a: 1\n")
    command = ["${interpreter}", "program.py", "--m=pas_train", "pas_train", "--config=own.yaml", "${args}"]
    save_sweep(home, ["a"], command=command)
    (home / "program.py").write_text("pass")
    names = []
    for text in ("a: 1\n", "a: 1\n", "a: 2\n"):
        (home / "own.yaml").write_text(text)
        assert run_sweep("s.yaml") == 0
        names.append(runs(home)["a"]["name"])
    assert names[0] == names[1] != names[2]


def test_sweep__dry_run_shows_lines_and_writes_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_sweep(home, ["a b", None])
    assert run_sweep("s.yaml", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == [f"   1  {sys.executable} program.py '--x=a b'", f"   2  {sys.executable} program.py --x=None"]
    assert not (home / "runs").exists()


def test_sweep__random_draws_go_on_where_they_were(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parameters = {"x": {"min": 0.0, "max": 1.0}}
    save_sweep(home, [], method="random", parameters=parameters, run_cap=4)
    assert run_sweep("s.yaml", "--count", "2") == 0
    two = set(states(home))
    assert run_sweep("s.yaml") == 0
    assert len(states(home)) == 4 and two < set(states(home))
    assert {entry["attempts"] for entry in runs(home).values()} == {1}
    save_sweep(home, [], method="random", parameters=parameters)
    assert run_sweep("s.yaml") == 1
    assert "needs run_cap in the file, or --count" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.yaml"], "sweep none.yaml: no such file, and no packaged sweep"),
        (["s.yaml", "--count", "0"], "must be a whole number above 0, got 0"),
        ([], "the following arguments are required: FILE"),
        (["s.yaml", "--outt", "x"], "unrecognized arguments: --outt"),
    ],
)
def test_sweep__refusals(home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    save_sweep(home, ["a"])
    assert run_sweep(*arguments) != 0
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_sweep__is_not_started_by_torchrun(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str
) -> None:
    monkeypatch.setenv(variable, "4")
    save_sweep(home, ["a"])
    assert run_sweep("s.yaml") == 1
    assert "start it once" in capsys.readouterr().err


def test_sweep__programs_are_not_an_agents_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_ID"):
        monkeypatch.setenv(name, "theirs")
    save_sweep(home, ["a"])
    (home / "program.py").write_text("import os; print({k for k in os.environ if k.startswith('WANDB_')})")
    run_sweep("s.yaml")
    assert "theirs" not in _log(home, "a") and "WANDB_RUN_ID" not in _log(home, "a")


def test_sweep__program_that_is_not_there(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_sweep(home, ["a"], command=["no-such-program", "${args}"])
    assert run_sweep("s.yaml") == 1
    assert "no-such-program cannot be run: No such file" in capsys.readouterr().out


def test_sweep__imports_no_torch(home: Path) -> None:
    shutil.copy(save_sweep(home, ["a"]), home / "t.yaml")
    code = (
        "import sys; from pas_train.__main__ import main; main(['sweep', 't.yaml', '--dry-run']); "
        "sys.exit('torch' in sys.modules or 'wandb' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0


def _log(home: Path, value: str) -> str:
    folder, log = home / "runs" / "sweeps" / "s", runs(home)[value]["log"]
    paths = [folder / log] if log else list((folder / "runs" / runs(home)[value]["name"]).glob("log.txt"))
    return paths[0].read_text() if paths else ""


def _claim(home: Path, value: str) -> dict:
    folder = home / "runs" / "sweeps" / "s" / "runs" / runs(home)[value]["name"]
    return read_json(max(folder.glob("claim-*.json")))
