"""A W&B sweep file: read, checked, and with every key that a local sweep cannot follow told."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pas_train.configs import FOLDER, packaged
from pas_train.sweeping.parameters import ParameterError, check_parameters

# As W&B names them; those after `run_cap` steer its server, or launch jobs there.
KEYS = ("method", "parameters", "command", "program", "run_cap", "name", "description", "metric", "project", "entity",
        "early_terminate", "controller", "settings")  # fmt: skip
LAUNCH = ("job", "image_uri", "scheduler", "launch", "imageuri")
METHODS = ("grid", "random")
DEFAULT_COMMAND = ["${env}", "${interpreter}", "${program}", "${args}"]
FOLDER_OF_SWEEPS = "sweeps"


@dataclass(frozen=True)
class SweepFile:
    """What a sweep file says.

    method: grid or random. parameters: as written. command: words with macros. run_cap: of its runs at most so many.
    remarks: what of the file does not count here, a line each.
    """

    path: Path
    name: str
    method: str
    parameters: dict[str, Any]
    command: list[str]
    program: str | None
    run_cap: int | None
    remarks: list[str]


def find_sweep(name: str) -> Path:
    """The file for a sweep's name: one in the current directory, else a packaged one.

    Raises FileNotFoundError with the choices.
    """
    if Path(name).is_file():
        return Path(name)
    for candidate in (FOLDER / FOLDER_OF_SWEEPS / name, FOLDER / name):
        for path in (candidate, candidate.with_name(candidate.name + ".yaml")):
            if path.is_file():
                return path
    choices = [one for one in packaged() if one.startswith(f"{FOLDER_OF_SWEEPS}/")]
    short = {Path(one).stem: one for one in choices}
    close = difflib.get_close_matches(Path(name).stem, short, n=2)
    hint = f"did you mean {' or '.join(short[one] for one in close)}? " if close else ""
    raise FileNotFoundError(
        f"sweep {name}: no such file, and no packaged sweep of that name; {hint}packaged are {', '.join(choices)}"
    )


def read_sweep_file(path: Path) -> SweepFile:
    """The checked content of a sweep file. Raises ValueError naming the file and the key."""
    content = _content(path)
    for key in content:
        if key in LAUNCH:
            raise ValueError(f"{path}: {key} is of W&B Launch, which needs its server; name the program by `command`")
        if key not in KEYS:
            close = difflib.get_close_matches(str(key), KEYS, n=2)
            hint = f"; did you mean {' or '.join(close)}?" if close else f"; keys are {', '.join(KEYS)}"
            raise ValueError(f"{path}: unknown key {key}{hint}")
    method = content.get("method")
    if method == "bayes":
        raise ValueError(
            f"{path}: method bayes chooses its runs on W&B's server: use `wandb sweep {path}` and `wandb agent`, or "
            "method grid or random here"
        )
    if method not in METHODS:
        raise ValueError(f"{path}: method must be {' or '.join(METHODS)} (or bayes on W&B's server), got {method}")
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise ValueError(f"{path}: parameters must name what varies, such as `seed_everything: {{values: [0, 1]}}`")
    try:
        check_parameters(parameters, method)
    except ParameterError as error:
        raise ValueError(f"{path}: {error}") from error
    cap = content.get("run_cap")
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int) or cap < 1):
        raise ValueError(f"{path}: run_cap must be a whole number above 0, got {cap}")
    command, program = content.get("command") or DEFAULT_COMMAND, content.get("program")
    if not isinstance(command, list) or not all(isinstance(word, str | int | float) for word in command):
        raise ValueError(f"{path}: command must be a list of words, such as [${{interpreter}}, -m, pas_train, fit]")
    if "${program}" in command and not program:
        raise ValueError(f"{path}: command has ${{program}}, but the file names no `program`")
    remarks = ["early_terminate is of W&B's server: here every run goes to its end"] * ("early_terminate" in content)
    name = content.get("name") or path.stem
    return SweepFile(path, str(name), method, parameters, [str(word) for word in command], program, cap, remarks)


def _content(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{path} is no valid yaml ({place}{error.problem}); correct that line") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as yaml ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no sweep file: it holds no keys such as method and parameters")
    if "parameters" not in content and "method" not in content and {"model", "data", "trainer"} & set(content):
        raise ValueError(f"{path} is a yaml of `fit`, not a sweep file, which has method, parameters and command")
    return content
