"""One run of a sweep as a process: its output in a file, a short line now and then, and signals passed on."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from datamodules.files import write_json
from pas_train.slurm import REQUEUE, in_job
from pas_train.sweeping import child
from pas_train.sweeping.claims import BEAT_S, Claim
from pas_train.sweeping.folder import PlannedRun

LOOK_S = 0.2
PROGRESS_S = 60.0
LAST_LINES = 8
TAIL = 4096  # bytes of a log that are looked at
HEADED = re.compile(r"\w[\w&-]*( \w+)? {2,}\S")  # "training    step 5 of 10"
GRACE_S = 60.0  # for a program to save, whose run another machine has taken over
WIDTH = 118
# An agent's own run, which is none of these.
AGENT = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_RESUME")
PLACE = re.compile(r"^(run|figures) {2,}(\S.*)$", re.MULTILINE)  # where `fit` and `evaluate` say their results lie


class Interruptions:
    """While in its block, signals that would end this process end what it runs, and are noted in `asked`."""

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._count = self._sent = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruptions":
        for number in (signal.SIGINT, signal.SIGTERM, *((REQUEUE,) if in_job() else ())):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def pass_to(self, process: "subprocess.Popen[bytes]") -> None:
        """Signals go to this process from now on, and one that came while it was being started."""
        self.process = process
        if self.asked is not None and not self._sent:
            process.send_signal(self.asked)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = signal.Signals(number)
        self._count += 1
        process = self.process
        if process is None or process.poll() is not None:
            return
        self._sent += 1
        if self._count > 2 and number != REQUEUE:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.send_signal(number)
        if self._count == 1:
            os.write(2, f"\n{self.asked.name}: this run saves and ends; the same command goes on with it.\n".encode())


@dataclass(frozen=True)
class Outcome:
    """How a process ended. code: exit status, negative for a signal. results: the file that it named, if it is there.

    place: the folder of its run, or that file. error: its last words. lost: another machine has taken the run over.
    """

    code: int
    seconds: float
    place: str | None
    results: Path | None
    error: list[str]
    lost: bool = False


def work(run: PlannedRun, claim: Claim, interruptions: Interruptions, head: str) -> Outcome:
    """Runs a process to its end. head: what its lines here begin with."""
    run.folder.mkdir(parents=True, exist_ok=True)
    write_json(run.folder / "args.json", run.point)
    env = {**{key: value for key, value in os.environ.items() if key not in AGENT}, "PYTHONUNBUFFERED": "1"}
    started, lost = time.monotonic(), False
    with open(run.log, "ab") as log:
        log.write(f"$ {shlex.join(run.line)}\n".encode())
        log.flush()
        begin = log.tell()
        process = subprocess.Popen(
            [sys.executable, child.__file__, str(os.getpid()), *run.line], stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, env=env, start_new_session=True,
        )  # fmt: skip
        interruptions.pass_to(process)
        try:
            claim.remember_child(process.pid)
            # It may have been taken over between the last look and the end.
            lost = _watch(process, run, claim, head, started) or not claim.beat()
        finally:
            if process.poll() is None:
                _end(process)
            interruptions.process = None
    said = _said(run.log, begin)
    place, results = _results(said)
    return Outcome(process.returncode, time.monotonic() - started, place, results, _last(said), lost)


def _watch(process: "subprocess.Popen[bytes]", run: PlannedRun, claim: Claim, head: str, started: float) -> bool:
    """Waits for the end of a process; True where another machine took the run over."""
    beat = told = time.monotonic()
    line = ""
    while True:
        try:
            process.wait(LOOK_S)
            return False
        except subprocess.TimeoutExpired:
            now = time.monotonic()
        if now - beat > BEAT_S:
            beat = now
            if not claim.beat():
                return True
        if now - told > PROGRESS_S:
            told, before, line = now, line, _last_line(run.log)
            if line != before:
                print(f"{head}{duration(now - started):>7}  {line}"[:WIDTH], flush=True)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03, 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _said(log: Path, begin: int) -> str:
    with open(log, "rb") as file:
        file.seek(begin)
        return file.read().decode(errors="replace").replace("\r", "\n")


def _last_line(log: Path) -> str:
    """The last line of a log that says something; if there is one of ours, that."""
    with open(log, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - TAIL))
        lines = _last(file.read().decode(errors="replace").replace("\r", "\n"), TAIL)
    last = lines[-1] if lines and not lines[-1].startswith("$ ") else "starts"
    return next((line for line in reversed(lines) if HEADED.match(line)), last)


def _last(said: str, count: int = LAST_LINES) -> list[str]:
    """The last lines that say something; of an error of ours that alone."""
    lines = deque((line.rstrip() for line in said.splitlines() if line.strip()), maxlen=count)
    errors = [number for number, line in enumerate(lines) if line.startswith("pas_train: error: ")]
    return list(lines)[errors[-1] if errors else 0 :]


def _results(said: str) -> tuple[str | None, Path | None]:
    """(where a command said that its results lie, the file if it is there)."""
    found = PLACE.findall(said)
    if not found:
        return None, None
    kind, place = found[-1]
    path = Path(place) / "results.json" if kind == "run" else Path(place)
    return place, path if path.is_file() else None
