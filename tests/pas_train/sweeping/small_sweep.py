"""Sweeps of programs that take no time."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from datamodules.files import read_json
from pas_train.__main__ import main

# Writes where its results lie, as `fit` does; fails for the value bad, and waits for a file for the value slow.
PROGRAM = """
import json, pathlib, sys, time
values = dict(arg.removeprefix("--").split("=", 1) for arg in sys.argv[1:])
print("begins", values, flush=True)
if values["x"] == "bad":
    print("pas_train: error: x is bad", file=sys.stderr)
    sys.exit(3)
while values["x"] == "slow" and not pathlib.Path("go").exists():
    time.sleep(0.02)
run = pathlib.Path("training") / values["x"]
run.mkdir(parents=True, exist_ok=True)
figures = {"cells": {"trained": {"knn": {"top1": 0.5}}}, "plates": {"trained": {"segmentation": {"miou": 0.25}}}}
(run / "results.json").write_text(json.dumps({"version": 2, "run": values["x"], "evaluation": figures}))
(run / "config.yaml").write_text("model: {}")
print(f"{'run':<12}{run}")
"""


def save_sweep(home: Path, values: list[Any], **more: Any) -> Path:
    """program.py and s.yaml, a grid over `x`."""
    (home / "program.py").write_text(PROGRAM)
    command = ["${interpreter}", "${program}", "${args}"]
    sweep = {"method": "grid", "program": "program.py", "parameters": {"x": {"values": values}}, "command": command}
    (home / "s.yaml").write_text(yaml.safe_dump({**sweep, **more}))
    return home / "s.yaml"


def run_sweep(*arguments: str) -> int:
    """The command in this process; its exit status."""
    try:
        return main(["sweep", *arguments])
    except SystemExit as end:
        return int(end.code or 0)


@contextmanager
def begin_sweep(home: Path) -> Iterator["subprocess.Popen[str]"]:
    """The command in a process of its own, which is gone at the end."""
    line = [sys.executable, "-m", "pas_train", "sweep", "s.yaml"]
    with subprocess.Popen(line, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def runs(home: Path) -> dict[str, dict[str, Any]]:
    """Value of x -> entry of runs.json."""
    found = (read_json(home / "runs" / "sweeps" / "s" / "runs.json") or {"runs": []})["runs"]
    return {str(entry["arguments"]["x"]): entry for entry in found}


def states(home: Path) -> dict[str, str]:
    """Value of x -> state."""
    return {value: entry["state"] for value, entry in runs(home).items()}


def wait_for(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Until something is so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)
