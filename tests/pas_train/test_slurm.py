"""SLURM, simulated by its environment and a scontrol that writes down what it is asked."""

import csv
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm  # noqa: F401  what the tasks need is imported before they are forked
import yaml
from lightning.pytorch import Callback, Trainer

import pas_train.cli
import pas_train.methods  # noqa: F401
from pas_train import slurm
from tests.conftest import free_port
from tests.pas_train.small_project import pas, run_of, save_training

JOB = {"SLURM_JOB_ID": "4321", "SLURM_JOB_NAME": "pas", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2",
       "SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_NODELIST": "127.0.0.1"}  # fmt: skip


class SignalOnOne(Callback):
    """The second task gets the signal before the time limit, in the middle of a step."""

    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 4 and trainer.global_rank == 1:
            os.kill(os.getpid(), slurm.REQUEUE)


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that a fake scontrol writes its arguments to; what this test does to signals is undone."""
    (tmp_path / "bin").mkdir()
    program, asked = tmp_path / "bin" / "scontrol", tmp_path / "asked.txt"
    program.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    before = signal.getsignal(slurm.REQUEUE)
    yield asked
    signal.signal(slurm.REQUEUE, before)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    config = save_training(home)
    config["trainer"] |= {"devices": "auto", "max_epochs": 2}
    # A transformer: batch norms, which the two tasks do together, are only in its heads.
    vit = {"depth": 1, "embed_dim": 16, "num_heads": 1, "patch_size": 16}
    config["model"]["init_args"] |= {"backbone": "vit_tiny_patch16_224", "backbone_options": vit, "small_images": False}
    config["data"]["init_args"]["batch_size"] = 4
    (home / "small.yaml").write_text(yaml.safe_dump(config))
    return home


def srun(home: Path, workspace: Path, *more: object) -> tuple[list[int], list[str]]:
    """Two tasks of `fit`; their exit statuses and what they said."""
    port, tasks = free_port(), []
    said = [workspace.parent / f"{task}.txt" for task in range(2)]
    for task in range(2):
        child = os.fork()
        if child == 0:
            os.environ.update(SLURM_PROCID=str(task), SLURM_LOCALID=str(task), MASTER_PORT=str(port))
            sys.stdout = sys.stderr = open(said[task], "w", buffering=1)
            os.dup2(sys.stderr.fileno(), 2)
            code = 1
            try:
                code = pas("fit", home, workspace, *more)
            except BaseException:
                os.write(2, traceback.format_exc().encode())
            finally:
                os._exit(code)
        tasks.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(task, 0)[1]) for task in tasks]
    return codes, [file.read_text() for file in said]


def test_fit__requeued_job_goes_on_in_the_same_run(home: Path, tmp_path: Path, scontrol: Path) -> None:
    workspace = tmp_path / "ws"
    codes, said = srun(home, workspace, "--trainer.callbacks", "tests.pas_train.test_slurm.SignalOnOne")
    assert 0 not in codes and scontrol.read_text() == "requeue 4321\n", said
    assert "job 4321 runs again" in said[0] and "SIGUSR1: saves after this step" in said[1]
    assert not list(tmp_path.rglob("hpc_ckpt*")) and "Traceback" not in said[0] + said[1]
    codes, said = srun(home, workspace)
    assert codes == [0, 0] and f"goes on from {run_of(workspace)}" in said[0], said
    with open(run_of(workspace) / "metrics.csv", newline="") as file:
        assert [row["step"] for row in csv.DictReader(file) if row["train/loss"]] == [str(step) for step in range(16)]


def test_requeue_on_signal__outside_a_training_asks_at_once(scontrol: Path, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "77")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    slurm.requeue_on_signal()
    signal.raise_signal(slurm.REQUEUE)
    assert scontrol.read_text() == "requeue 77_3\n"
    monkeypatch.setenv("SLURM_PROCID", "1")  # one task of a job asks
    signal.raise_signal(slurm.REQUEUE)
    assert scontrol.read_text() == "requeue 77_3\n"


def test_requeue__refusal_says_how_to_go_on(scontrol: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    (tmp_path / "bin" / "scontrol").write_text("#!/bin/sh\necho Requeue is disabled >&2\nexit 1\n")
    assert not slurm.requeue()
    (tmp_path / "bin" / "scontrol").unlink()
    assert not slurm.requeue()
    said = capfd.readouterr().err
    assert "job 4321 was not requeued (scontrol: Requeue is disabled); submit the same script again" in said
    assert "No such file" in said


@pytest.mark.parametrize("name", ["bash", "interactive"])
def test_in_job__a_shell_inside_an_allocation_is_none(scontrol: Path, monkeypatch, name: str) -> None:
    assert slurm.in_job()
    monkeypatch.setenv("SLURM_JOB_NAME", name)
    assert not slurm.in_job()
