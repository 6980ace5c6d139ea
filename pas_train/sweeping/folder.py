"""The folder of a sweep: sweep.yaml, runs.json, and runs/<run>/ with run.json, log.txt, results.json and claims.

run.json is written by the process alone that has claimed the run; runs.json is made anew from all of them, so that
several machines may do so at any time.
"""

import json
import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from datamodules.files import atomic, fingerprint, read_json, sha256_file, write_json
from pas_train.configs import ConfigError, find_config
from pas_train.results import FILE
from pas_train.sweeping import claims
from pas_train.sweeping.expansion import expand
from pas_train.sweeping.parameters import draws, grid
from pas_train.sweeping.sweep_file import SweepFile

State = Literal["waiting", "running", "stopped", "failed", "finished"]
VERSION = 1
RUNS = "runs.json"
EARLIER = "results.earlier.json"  # of a run that the file does not name any more: out of comparisons
NAME_LENGTH = 60


@dataclass(frozen=True)
class PlannedRun:
    """One run. number: from 1. name: of its folder. point: parameters and their values. line: its process' words."""

    number: int
    name: str
    folder: Path
    point: dict[str, Any]
    line: list[str]

    @property
    def log(self) -> Path:
        """What its processes said."""
        return self.folder / "log.txt"

    @property
    def record(self) -> dict[str, Any]:
        """run.json; of a run that nobody has begun an empty one."""
        found: dict[str, Any] = read_json(self.folder / "run.json") or {}
        return found

    @property
    def changed(self) -> float:
        """When run.json was written, by the clock of its disk; 0 without one."""
        path = self.folder / "run.json"
        return path.stat().st_mtime if path.exists() else 0.0

    def write(self, record: dict[str, Any]) -> None:
        """Writes run.json; for who has claimed the run."""
        write_json(self.folder / "run.json", record)


def plan_runs(sweep: SweepFile, folder: Path, seed: int, count: int | None) -> list[PlannedRun]:
    """All runs of a sweep, in order.

    A run is known by its command, its parameters' values and what its yamls hold: a changed one is another run.
    Raises ValueError for random draws without an end, and for a yaml that is not there.
    """
    points = grid(sweep.parameters) if sweep.method == "grid" else draws(sweep.parameters, seed)
    limits = [limit for limit in (sweep.run_cap, count) if limit is not None]
    if sweep.method == "random" and not limits:
        raise ValueError(f"{sweep.path}: method random needs run_cap in the file, or --count: how many runs to draw")
    varied = _varied(sweep.parameters)
    planned = []
    for number, point in enumerate(islice(points, min(limits, default=None)), 1):
        line = expand(sweep.command, point, sweep.program, Path("args.json"))
        # Where Python lies does not count: it differs from machine to machine.
        words = ["python" if word == sys.executable else word for word in line]
        name = f"{_short(point, varied)}-{fingerprint([words, point, _yamls(line)])[:8]}"
        run_folder = folder / "runs" / name
        line = expand(sweep.command, point, sweep.program, run_folder / "args.json")
        planned.append(PlannedRun(number, name, run_folder, point, line))
    return planned


def _yamls(line: list[str]) -> dict[str, str]:
    """Name -> SHA-256 of the yamls that a command names, so that a changed one is noticed."""
    names = [after for word, after in zip(line, line[1:], strict=False) if word in ("--config", "-c")]
    names += [word.partition("=")[2] for word in line if re.match(r"--config(\.[\w.-]+)?=", word)]
    if not {"pas_train", "pas-train"} & {Path(word).name for word in line}:
        return {}
    try:
        return {name: sha256_file(find_config(name)) for name in names if name not in ("None", "null")}
    except ConfigError as error:
        raise ValueError(str(error)) from error


def _varied(parameters: dict[str, Any]) -> set[str]:
    """Names of the parameters that differ between runs."""
    return {
        name for name, parameter in parameters.items()
        if "value" not in parameter and not ("values" in parameter and len(parameter["values"]) == 1)
    }  # fmt: skip


def shown(point: dict[str, Any], varied: set[str] | None = None) -> str:
    """A run's parameters for people: `source=pool seed_everything=0`."""
    chosen = {name: value for name, value in point.items() if varied is None or name in varied} or point
    return " ".join(f"{name.rpartition('.')[2] or name}={_brief(value)}" for name, value in chosen.items())


def _brief(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _short(point: dict[str, Any], varied: set[str]) -> str:
    """The parameters as the name of a folder."""
    chosen = {name: value for name, value in point.items() if name in varied} or point
    parts = [f"{name.rpartition('.')[2]}={_last(_brief(value))}" for name, value in chosen.items()]
    return re.sub(r"[^\w.=+-]+", "-", "-".join(parts))[:NAME_LENGTH].strip("-.")


def _last(value: str) -> str:
    """Of a path what tells it from others."""
    parts = [part for part in value.split("/") if part not in ("", "manifest.parquet")] if "/" in value else []
    return parts[-1].removesuffix(".yaml") if parts else value


class SweepFolder:
    """The state of all runs of a sweep."""

    def __init__(self, folder: Path, sweep: SweepFile, runs: list[PlannedRun], seed: int) -> None:
        self.folder, self.sweep, self.runs, self.seed = folder, sweep, runs, seed
        self.varied = _varied(sweep.parameters)

    def begin(self) -> int:
        """Makes the folder, with a copy of the file; sets runs aside that the file does not name (any more).

        Returns how many those are. Raises ValueError where somebody works at one of them.
        """
        named = {run.name for run in self.runs}
        others = [path for path in (self.folder / "runs").glob("*") if path.name not in named and path.is_dir()]
        for one in others:
            holding = claims.holder(one)
            if holding is not None:
                raise ValueError(
                    f"{self.folder}: {holding.host} works at {one.name}, which {self.sweep.path} does not name: of "
                    "another version of the file, of a yaml that its command names, or of this program. Bring both "
                    "machines to the same, or give this sweep a folder of its own: --out DIR"
                )
        for one in others:
            _rename(one / FILE, one / EARLIER)
        self._place(self.sweep.path.read_text(encoding="utf-8"), "sweep.yaml")
        for run in self.runs:
            _rename(run.folder / EARLIER, run.folder / FILE)
        self.write()
        return len(others)

    def state(self, run: PlannedRun) -> tuple[State, claims.Holder | None]:
        """What has become of a run, and who works at it."""
        record = run.record
        if record.get("state") == "finished":
            return "finished", None
        holding = claims.holder(run.folder) if run.folder.exists() else None
        if holding is not None:
            return "running", holding
        state: State = record.get("state", "waiting")
        return ("stopped" if state == "running" else state), None

    def write(self) -> list[dict[str, Any]]:
        """Makes runs.json anew; returns its runs."""
        entries = [self._entry(run) for run in self.runs]
        content = {
            "version": VERSION, "name": self.sweep.name, "file": str(self.sweep.path), "method": self.sweep.method,
            "seed": self.seed if self.sweep.method == "random" else None, "runs": entries,
        }  # fmt: skip
        self._place(json.dumps(content, indent=1, default=str) + "\n", RUNS)
        return entries

    def _place(self, text: str, name: str) -> None:
        """Writes a file that other machines may be writing, too."""
        # They may have processes of the same number, by which `atomic` tells writers apart.
        own = self.folder / f".{claims.hostname()}-{os.getpid()}-{name}"
        with atomic(own) as temporary:
            temporary.write_text(text, encoding="utf-8")
        os.replace(own, self.folder / name)

    def _entry(self, run: PlannedRun) -> dict[str, Any]:
        state, holding = self.state(run)
        record = run.record
        kept = {key: record.get(key) for key in ("attempts", "seconds", "exit", "host", "run", "results", "error")}
        host = holding.host if holding else kept.pop("host")
        return {
            "number": run.number, "name": run.name, "state": state, "arguments": run.point, "command": run.line,
            "log": str(run.log.relative_to(self.folder)) if run.log.exists() else None, **kept, "host": host,
        }  # fmt: skip


def _rename(before: Path, after: Path) -> None:
    if before.exists() and not after.exists():
        with suppress(FileNotFoundError):  # another machine has done so in this moment
            before.rename(after)
