"""The lock of a workspace, between processes."""

import contextlib
import errno
import fcntl
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from curation import locking
from curation.locking import WorkspaceLock, held
from curation.session import Session

Holder = Callable[[Callable[[WorkspaceLock], object]], int]


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    """Forks a process that does something with the workspace's lock, keeps it, and is ended after the test."""
    children = []

    def start(work: Callable[[WorkspaceLock], object]) -> int:
        ready, told = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                lock = WorkspaceLock(tmp_path)
                work(lock)
                os.write(told, b"1")
                time.sleep(60)
            finally:
                os._exit(1)
        children.append(child)
        os.close(told)
        assert os.read(ready, 1) == b"1"
        os.close(ready)
        return child

    yield start
    for child in children:
        end(child)


def end(child: int) -> None:
    with contextlib.suppress(ProcessLookupError, ChildProcessError):  # the test may have ended it
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def write(lock: WorkspaceLock) -> None:
    lock.take()
    lock.begin_writing()


def test_workspace_lock__another_run_ends_at_once(holder: Holder, tmp_path: Path) -> None:
    child = holder(write)
    began = time.monotonic()
    with pytest.raises(RuntimeError, match=rf"^workspace: .* {tmp_path} \(process {child} on {socket.gethostname()}\)"):
        WorkspaceLock(tmp_path).take()
    assert time.monotonic() - began < 1


def test_workspace_lock__is_free_after_a_kill(holder: Holder, tmp_path: Path) -> None:
    def with_a_worker(lock: WorkspaceLock) -> None:
        write(lock)
        if os.fork() == 0:  # as a loader's, that outlives its parent for a while
            time.sleep(3)
            os._exit(0)

    end(holder(with_a_worker))
    lock = WorkspaceLock(tmp_path)
    began = time.monotonic()
    assert lock.take() is None
    lock.release()
    assert time.monotonic() - began < 1
    assert (tmp_path / ".lock").read_bytes() == b""


def test_workspace_lock__ranks_that_outlive_rank_0_keep_it(
    holder: Holder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "DYING_S", 0.3)
    first, second = holder(write), holder(WorkspaceLock.join)
    end(first)
    with pytest.raises(RuntimeError, match=rf"\(process {second} on "):
        WorkspaceLock(tmp_path).take()
    end(second)
    lock = WorkspaceLock(tmp_path)
    assert lock.take() is None
    lock.release()


def test_workspace_lock__waits_for_a_run_that_only_looks(holder: Holder, tmp_path: Path) -> None:
    def look(lock: WorkspaceLock) -> None:
        lock.take()
        signal.setitimer(signal.ITIMER_REAL, 0.4)  # ends the process

    holder(look)
    began = time.monotonic()
    lock = WorkspaceLock(tmp_path)
    assert lock.take() is None and 0.2 < time.monotonic() - began < 5
    lock.release()


def test_held__goes_on_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with held(tmp_path, Session(accelerator="cpu")) as lock:
        lock.begin_writing()
    assert "cannot be locked (No locks available)" in capsys.readouterr().out


def test_held__both_ranks_hold_it(tmp_path: Path, two_ranks: Callable[[Callable[[int], None]], None]) -> None:
    def work(rank: int) -> None:
        session = Session(accelerator="cpu")
        session.start()
        with held(tmp_path, session):
            session.barrier()
            assert len((tmp_path / ".lock").read_text().splitlines()) == 2
            session.barrier()

    two_ranks(work)


def test_workspace_lock__waits_with_patience_for_a_run_that_writes(tmp_path: Path) -> None:
    first, second = WorkspaceLock(tmp_path), WorkspaceLock(tmp_path, patience_s=20.0)
    assert first.take() is None
    first.begin_writing()
    with pytest.raises(RuntimeError, match="another run writes to"):
        WorkspaceLock(tmp_path).take()
    ending = threading.Timer(0.3, first.release)
    ending.start()
    assert second.take() is None
    ending.join()
    second.release()
