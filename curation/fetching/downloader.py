"""Runs img2dataset: in a process and an environment of its own, guarded, and looked after until it ends."""

import contextlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from curation.fetching.rounds import KEY, Round
from curation.progress import Progress

GUARD = Path(__file__).with_name("guard")
# Starting Python takes a moment; a guard that is not there after this long does not come.
GUARD_PATIENCE_S = 60.0
# What must not reach another environment's Python, or what only costs it time.
FOREIGN = ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "VIRTUAL_ENV", "OMP_NUM_THREADS")
INSTALL = "python -m venv i2d && i2d/bin/pip install img2dataset"


@dataclass(frozen=True)
class Limits:
    """What a connection may do. allow_private: reach private networks. max_bytes, max_s: of one response."""

    allow_private: bool = False
    max_bytes: int = 32 * 1024**2
    max_s: float = 60.0


def check_command(command: str) -> None:
    """Raises FileNotFoundError naming the key where the program is not installed."""
    if not shlex.split(command) or shutil.which(shlex.split(command)[0]) is None:
        raise FileNotFoundError(
            f"{KEY}.command: {command!r} is not installed; img2dataset wants an environment of its own ({INSTALL}, "
            f"then {KEY}.command: i2d/bin/img2dataset). To fetch on another machine, set {KEY}.command to null: the "
            "run then stops with the table of addresses and the command for it"
        )


def arguments(round_: Round, options: dict[str, object]) -> list[str]:
    """img2dataset's arguments for a round (github.com/rom1504/img2dataset, 1.40 and later)."""
    fixed: dict[str, object] = {
        "url_list": round_.urls.resolve(), "input_format": "parquet", "url_col": "url", "caption_col": "caption",
        "save_additional_columns": '["licence","id"]', "output_folder": round_.folder.resolve(),
        "output_format": "webdataset", "encode_format": "jpg", "compute_hash": "sha256",
        "incremental_mode": "incremental", "enable_wandb": False,
    }  # fmt: skip
    return [f"--{name}={value}" for name, value in {**fixed, **options}.items()]


def run_round(command: str, round_: Round, options: dict[str, object], limits: Limits, show: bool = True) -> None:
    """Fetches the shards of a round that are missing. Raises RuntimeError with the downloader's last words.

    When this process ends, however, the downloader ends too.
    """
    round_.folder.mkdir(parents=True, exist_ok=True)
    mark = round_.folder.with_name(f"{round_.folder.name}.guarded")
    mark.unlink(missing_ok=True)
    begun = round_.missing()
    for path in (path for name in begun for path in round_.folder.glob(f"{name}[._]*")):
        path.unlink()  # what a kill left would be written over in place; another workspace may share these bytes
    guard = {
        "allow_private": limits.allow_private, "max_bytes": limits.max_bytes, "max_s": limits.max_s,
        "allow": list(_proxies()), "mark": str(mark.resolve()),
    }  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    environment |= {
        "PYTHONPATH": str(GUARD.resolve()), "PAS_FETCH_GUARD": json.dumps(guard), "WANDB_MODE": "disabled",
        "NO_ALBUMENTATIONS_UPDATE": "1", "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    with open(round_.log, "ab") as log:
        process = subprocess.Popen(
            [*shlex.split(command), *arguments(round_, options)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip
        with _ended(process):
            _watch(process, round_, mark, show)
    if not mark.exists():
        for path in (path for name in begun for path in round_.folder.glob(f"{name}[._]*")):
            path.unlink()  # else the next run would take it for fetched
        raise RuntimeError(
            f"{KEY}.command: {command!r} runs without the guard that keeps it off private networks (its Python takes "
            "no PYTHONPATH, or it is no Python program), so it was ended; name the img2dataset of a plain virtual "
            "environment"
        )
    if missing := round_.missing():
        free = shutil.disk_usage(round_.folder).free / 1e9
        raise RuntimeError(
            f"{KEY}: img2dataset ended (exit code {process.returncode}) with {len(missing)} shards of {round_.folder} "
            f"missing, and {free:.1f} GB free on its disk; run again to go on. Its last words, of {round_.log}: "
            f"{_last_words(round_.log)}"
        )


def _watch(process: subprocess.Popen, round_: Round, mark: Path, show: bool) -> None:
    """Waits for the end, but not of what runs without its guard, and shows how many addresses were tried."""
    began = time.monotonic()
    with contextlib.closing(Progress("fetch", round_.count, unit="url", show=show)) as bar:
        looked = 0.0
        while process.poll() is None:
            time.sleep(0.05)
            now = time.monotonic()
            if now - began > GUARD_PATIENCE_S and not mark.exists():
                return
            if now - looked > 2:
                bar.reach(round_.statistics()["count"])
                looked = now


@contextmanager
def _ended(process: subprocess.Popen) -> Iterator[None]:
    """Leaves no downloader behind, also after Ctrl-C."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _proxies() -> Iterator[tuple[str, int]]:
    """Addresses of this machine's proxies: these may be private; what they reach is theirs to decide."""
    for name, proxy in urllib.request.getproxies().items():
        parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
        if name == "no" or not parts.hostname:
            continue
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        except (OSError, ValueError):
            continue
        yield from {(str(entry[4][0]), int(entry[4][1])) for entry in found}


def _last_words(log: Path) -> str:
    """The end of a log, in one line."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 4000))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-4:])[-600:] or "none"
