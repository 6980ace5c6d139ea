"""Who works at what, where several machines share a folder: numbered files, of which the last one counts.

A claim is made by linking a file of the next number, which only one process can do. Its owner touches it while it
works, and writes `released` into it at the end. A claim is up for the next one when it is released, when its process is
gone from this machine, or when it has not been touched for STALE_S by the clock of the shared disk.
"""

import os
import re
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.files import read_json, write_json

BEAT_S = 20.0
SILENT_S = 60.0  # after which it is in doubt whether the owner lives
STALE_S = 180.0
NUMBERED = re.compile(r"claim-(\d+)\.json")


def hostname() -> str:
    """The name of this machine, for people."""
    return socket.gethostname()


def machine() -> str | None:
    """What tells this boot of this machine, and this container, from all others; None where nothing does."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return None


def process_start(pid: int) -> str | None:
    """When a process of this machine began, so that a later one with its number is told from it; None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


@dataclass(frozen=True)
class Holder:
    """Another process that works at it. silent_s: since its last sign of life; ending: its program still ends."""

    host: str
    pid: int
    silent_s: float
    ending: bool = False


class Claim:
    """The claim of this process. Made by `claim`."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path, self.content = path, content

    @property
    def number(self) -> int:
        """1 for the first one."""
        return int(NUMBERED.fullmatch(self.path.name)[1])  # type: ignore[index]

    def beat(self) -> bool:
        """Says that this process lives; False where another one has taken over in the meantime."""
        try:
            os.utime(self.path)
            return _newest(self.path.parent) in (self.number, 0)
        except OSError:  # a shared disk that is away for a moment
            return True

    def remember_child(self, pid: int) -> None:
        """Writes which process works for this one."""
        self.content["child"] = {"pid": pid, "started": process_start(pid)}
        write_json(self.path, self.content)

    def release(self) -> None:
        """Lets others have it."""
        write_json(self.path, {**self.content, "released": True})


def holder(folder: Path) -> Holder | None:
    """Who works at what lies in the folder, as far as is known; None where nobody does."""
    number = _newest(folder)
    path = folder / f"claim-{number:04}.json"
    if not number:
        return None
    silent = max(0.0, now(folder) - path.stat().st_mtime)
    try:
        content = read_json(path)
    except ValueError:  # it is being written, on a disk without links
        return Holder("another machine", 0, silent) if silent < STALE_S else None
    if content["released"]:
        return None
    child = content.get("child") or {}
    if content["machine"] is not None and content["machine"] == machine():
        if process_start(content["pid"]) == content["started"]:
            return Holder(content["host"], content["pid"], silent)
        # A program whose sweep was killed is told to end, and saves before it does.
        # One that was gone before it was written down has no `started`.
        if child.get("started") is not None and process_start(child["pid"]) == child["started"]:
            return Holder(content["host"], child["pid"], silent, ending=True)
        return None
    return Holder(content["host"], content["pid"], silent) if silent < STALE_S else None


def claim(folder: Path) -> Claim | None:
    """Claims what lies in the folder; None where another process works at it."""
    folder.mkdir(parents=True, exist_ok=True)
    number = _newest(folder)
    if holder(folder) is not None:
        return None
    content = {"host": hostname(), "machine": machine(), "pid": os.getpid(), "started": process_start(os.getpid()),
               "released": False}  # fmt: skip
    path, token = folder / f"claim-{number + 1:04}.json", folder / f".claim-{uuid.uuid4().hex}"
    write_json(token, content)
    try:
        _place(token, path)
    except FileExistsError:
        return None
    finally:
        token.unlink(missing_ok=True)
    return Claim(path, content)


def _place(token: Path, path: Path) -> None:
    """Gives a file its name, which must be free. Raises FileExistsError."""
    try:
        os.link(token, path)
    except FileExistsError:
        raise
    except OSError:  # a disk without links
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(token, path)


def _newest(folder: Path) -> int:
    """Number of the last claim, 0 without any."""
    found = (NUMBERED.fullmatch(path.name) for path in folder.glob("claim-*.json"))
    return max((int(match[1]) for match in found if match), default=0)


def now(folder: Path) -> float:
    """The time by the clock of the folder's disk, which need not be that of this machine."""
    probe = folder / f".now-{uuid.uuid4().hex}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()
