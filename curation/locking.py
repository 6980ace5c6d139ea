"""One run at a time writes to a workspace, however an earlier one ended."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from curation.session import Session

# A run that only looks whether all is finished holds the lock for seconds: many may start on one finished workspace.
LOOKING_S = 600.0
# What a killed run leaves behind, such as its other ranks, ends within this time or not by itself.
DYING_S = 10.0

_held: set[int] = set()  # descriptors of this process's locks


def _let_go() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


# A loader's worker that outlives its killed parent for a moment writes nothing and must not hold the lock.
os.register_at_fork(after_in_child=_let_go)


class WorkspaceLock:
    """The lock of a workspace, `.lock` in its folder: empty, or naming the processes (host, number) that hold it.

    Rank 0 takes it alone and then shares it with the other ranks of its run, so that nobody else gets it while one of
    them lives. The kernel releases it when a process ends, by `kill -9` too. Where the file system knows no locks
    nothing is held.
    """

    def __init__(self, root: Path, patience_s: float = 0.0) -> None:
        self.root, self.path = root, root / ".lock"
        self.patience_s = patience_s  # how long to wait for a run that writes
        self.descriptor: int | None = None
        self.mine = False  # taken, not joined

    def take(self) -> str | None:
        """Takes the lock for rank 0's run; returns why there is none to be had, or None.

        Waits for a run that only looks, and with patience for one that writes. Raises RuntimeError where one writes on.
        """
        began, told = time.monotonic(), False
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor = self._open()
            while not (_lock(descriptor, fcntl.LOCK_EX) and _lock(descriptor, fcntl.LOCK_SH)):
                holders, writing = self.holders()
                alive = [(host, number) for host, number in holders if _may_live(host, number)]
                waited = time.monotonic() - began
                if waited >= ((self.patience_s if alive else DYING_S) if writing else LOOKING_S):
                    raise RuntimeError(self._taken(alive or holders))
                if waited > 2 and not told:
                    what = "writes to" if writing else "looks at"
                    print(f"workspace  waits for another run that {what} it ({_named(alive or holders)})", flush=True)
                    told = True
                time.sleep(0.05)
            os.ftruncate(descriptor, 0)
            self.mine = True
            self._note(_me())
        except OSError as error:
            self.release()
            return error.strerror
        except RuntimeError:
            self.release()
            raise
        return None

    def join(self) -> None:
        """Holds the lock that rank 0 took, for another rank of its run."""
        try:
            if _lock(self._open(), fcntl.LOCK_SH):
                self._note(_me())
        except OSError:
            self.release()

    def begin_writing(self) -> None:
        """From now on other runs end at once instead of waiting. For rank 0."""
        self._note("writes")

    def release(self) -> None:
        """Lets the next run in."""
        if self.descriptor in _held:
            if self.mine:
                os.ftruncate(self.descriptor, 0)
            os.close(self.descriptor)
            _held.discard(self.descriptor)
        self.descriptor, self.mine = None, False

    def _open(self) -> int:
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        _held.add(self.descriptor)
        return self.descriptor

    def _note(self, line: str) -> None:
        if self.descriptor is not None:
            os.write(self.descriptor, f"{line}\n".encode())

    def holders(self) -> tuple[list[tuple[str, int]], bool]:
        """The processes that the file names, and whether they write. Nothing in the moment when it is begun."""
        words = [line.split() for line in self.path.read_text(errors="replace").splitlines()]
        holders = [(line[0], int(line[1])) for line in words if len(line) == 2 and line[1].isdecimal()]
        return holders, ["writes"] in words

    def _taken(self, holders: list[tuple[str, int]]) -> str:
        return (
            f"workspace: another run writes to {self.root} ({_named(holders)}); wait for its end, or choose another "
            "folder with --workspace; if only its launcher was killed, end these processes too"
        )


@contextmanager
def held(root: Path, session: "Session", patience_s: float = 0.0) -> Iterator[WorkspaceLock]:
    """The workspace's lock, held by all ranks while the block runs. Raises RuntimeError where another run has it.

    patience_s: how long to wait for a run that writes.
    """
    lock = WorkspaceLock(root, patience_s)
    try:
        without = session.on_zero(lock.take)
        if without is not None and session.is_zero and os.access(root, os.W_OK):
            print(f"workspace  cannot be locked ({without}); start no second run on {root} meanwhile", flush=True)
        if without is None and not session.is_zero:
            lock.join()
        yield lock
    finally:
        lock.release()


@contextmanager
def read_only(root: Path) -> Iterator[None]:
    """Keeps runs off another workspace while it is read; writes nothing there. For rank 0.

    Waits for a run that only looks. Raises RuntimeError where one writes. Several may read at once. Where there is no
    lock, or the file system knows none, nothing is held.
    """
    lock = WorkspaceLock(root)
    try:
        descriptor = os.open(lock.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    _held.add(descriptor)
    try:
        began = time.monotonic()
        with suppress(OSError):
            while not _lock(descriptor, fcntl.LOCK_EX):
                holders, writing = lock.holders()
                holders = [(host, number) for host, number in holders if _may_live(host, number)]
                if not holders:  # others who read, and maybe the names that a killed run left
                    break
                if writing or time.monotonic() - began > LOOKING_S:
                    raise RuntimeError(
                        f"curation.base: another run writes to {root} ({_named(holders)}); wait for its end, then run "
                        "again"
                    )
                time.sleep(0.05)
            _lock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)
        _held.discard(descriptor)


def _lock(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _me() -> str:
    return f"{socket.gethostname()} {os.getpid()}"


def _may_live(host: str, number: int) -> bool:
    """Whether a process may still be there; of another machine nothing is known."""
    if host != socket.gethostname():
        return True
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _named(holders: list[tuple[str, int]]) -> str:
    hosts: dict[str, list[str]] = {}
    for host, number in holders:
        hosts.setdefault(host, []).append(str(number))
    return "; ".join(f"process {', '.join(numbers)} on {host}" for host, numbers in hosts.items()) or "process unknown"
