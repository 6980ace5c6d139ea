"""Ranks and what they share."""

import os
import select
import signal
import subprocess
from pathlib import Path

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch.utils.data import DataLoader

from curation.session import Session, launched_devices

LAUNCHERS = ("TORCHELASTIC_RUN_ID", "RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE", "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE",
             "SLURM_JOB_NAME")  # fmt: skip
TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}
SLURM = {"SLURM_JOB_NAME": "pas", "SLURM_NTASKS_PER_NODE": "4(x2)", "SLURM_NTASKS": "8"}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch):
    def launch(variables: dict[str, str]) -> None:
        for name in LAUNCHERS:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    launch({})
    return launch


def test_launched_devices__alone_as_given(launched) -> None:
    assert launched_devices("auto") == ("auto", 1)
    assert launched_devices([0, 3], 2) == ([0, 3], 2)


@pytest.mark.parametrize(("variables", "expected"), [(TORCHRUN, (2, 3)), (SLURM, (4, 2))])
def test_launched_devices__auto_is_what_the_launcher_started(launched, variables: dict, expected: tuple) -> None:
    launched(variables)
    for devices in ("auto", -1, "-1", None):
        assert launched_devices(devices) == expected


def test_launched_devices__tasks_without_a_number_for_each_node(launched) -> None:
    launched({"SLURM_JOB_NAME": "pas", "SLURM_NTASKS": "2"})
    with pytest.raises(ValueError, match="SLURM runs 2 tasks .* --ntasks-per-node"):
        launched_devices("auto")


def test_launched_devices__numbers_that_agree(launched) -> None:
    launched(TORCHRUN)
    assert launched_devices(2) == (2, 3) and launched_devices([0, 1], 3) == ([0, 1], 3)
    assert launched_devices("0,1", 3) == ("0,1", 3) and launched_devices("2") == ("2", 3)


@pytest.mark.parametrize(("devices", "nodes"), [(1, 1), ([0, 1, 2], 1), ("0,1,2", 3), ("auto ", 2), (2, 2)])
def test_launched_devices__numbers_that_disagree(launched, devices: object, nodes: int) -> None:
    launched(TORCHRUN)
    with pytest.raises(ValueError, match=r"trainer\.devices is .* torchrun started 2 processes on each of 3 nodes"):
        launched_devices(devices, nodes)


@pytest.mark.parametrize("name", ["bash", "interactive"])
def test_launched_devices__a_shell_in_slurm_is_no_launcher(launched, name: str) -> None:
    launched({**SLURM, "SLURM_JOB_NAME": name})
    assert launched_devices("auto") == ("auto", 1)


def test_session__precision_is_checked() -> None:
    with pytest.raises(ValueError, match=r"curation\.precision is '16-true'; use '32-true'"):
        Session(precision="16-true")


def test_session__alone(launched) -> None:
    session = Session(accelerator="cpu", devices=1)
    session.start()
    assert (session.rank, session.world_size, session.is_zero) == (0, 1, True)
    session.barrier()
    value = object()
    assert session.broadcast(value) is value and session.on_zero(lambda: value) is value
    with pytest.raises(KeyError, match="gone"):
        session.on_zero(lambda: {}["gone"])


def test_session__rank_zero_works_for_all(two_ranks) -> None:
    def work(rank: int) -> None:
        session = Session(accelerator="cpu")
        session.start()
        session.start()
        assert (session.rank, session.world_size, session.is_zero) == (rank, 2, rank == 0)
        assert session.broadcast(f"rank {rank}") == "rank 0"
        assert session.on_zero(lambda: ["made by", session.rank]) == ["made by", 0]
        assert session.trainer().world_size == 2

    two_ranks(work)


def test_session__an_error_on_rank_zero_ends_all(two_ranks) -> None:
    def work(rank: int) -> None:
        session = Session(accelerator="cpu")
        session.start()

        def fail() -> None:
            raise ValueError("no room")

        kind, text = (ValueError, "^no room$") if rank == 0 else (RuntimeError, "rank 0 stopped: ValueError: no room")
        with pytest.raises(kind, match=text):
            session.on_zero(fail)
        session.barrier()  # and both can still meet

    two_ranks(work)


class EndAtTwo(LightningModule):
    """Notes the batches that it sees, and at the second one gets the signal that `kill` sends."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def predict_step(self, batch: int, batch_idx: int) -> int:
        with self.path.open("a") as file:
            file.write(f"{batch} ")
        if batch == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_session__sigterm_ends_a_loop_and_the_ranks_that_it_started(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        launcher = _SubprocessScriptLauncher(LightningEnvironment(), 2, 1)
        launcher.procs = [subprocess.Popen(["sleep", "60"], pass_fds=[writing])]  # in the place of a rank
        session = Session(accelerator="cpu")
        session._launcher = launcher
        loader: DataLoader = DataLoader([1, 2, 3], batch_size=None)  # type: ignore[arg-type]
        session.trainer().predict(EndAtTwo(tmp_path / "seen"), loader, return_predictions=False)
        os._exit(0)
    os.close(writing)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    assert (tmp_path / "seen").read_text() == "1 2 "
    assert select.select([reading], [], [], 10)[0] == [reading]  # at its end: nobody is left who could write
    os.close(reading)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_session__a_loop_leaves_the_signals_as_they_were() -> None:
    before = signal.getsignal(signal.SIGTERM)
    during: list[object] = []

    class Look(LightningModule):
        def predict_step(self, batch: int, batch_idx: int) -> int:
            during.append(signal.getsignal(signal.SIGTERM))
            return batch

    loader: DataLoader = DataLoader([1], batch_size=None)  # type: ignore[arg-type]
    Session(accelerator="cpu").trainer().predict(Look(), loader, return_predictions=False)
    assert during[0] != before == signal.getsignal(signal.SIGTERM)
