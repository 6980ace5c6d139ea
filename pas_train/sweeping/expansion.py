"""The command of a sweep file as the words of a process, with W&B's macros."""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")
MACRO = re.compile(r"\$\{\w+\}")
ENV = "/usr/bin/env"


def arguments(point: Mapping[str, Any]) -> dict[str, list[str]]:
    """Macro -> the words that it stands for, of all macros that W&B makes of the parameters' values."""
    flags = [f"{name}={value}" for name, value in point.items()]
    return {
        "args": [f"--{flag}" for flag in flags],
        "args_no_hyphens": flags,
        "args_no_equals": [word for name, value in point.items() for word in (f"--{name}", str(value))],
        "args_no_boolean_flags": [
            f"--{name}" if value is True else f"--{name}={value}" for name, value in point.items() if value is not False
        ],
        "args_append_hydra": [f"+{flag}" for flag in flags],
        "args_override_hydra": [f"++{flag}" for flag in flags],
        "args_json": [json.dumps(dict(point))],
    }


def check_command(command: Sequence[str]) -> None:
    """Raises ValueError for a macro that does not exist; W&B leaves such a word out in silence."""
    known = {*(f"${{{name}}}" for name in (*arguments({}), "env", "interpreter", "program", "args_json_file"))}
    for word in command:
        if MACRO.fullmatch(word) and word not in known:
            raise ValueError(f"command: {word} is unknown; macros are {', '.join(sorted(known))} and ${{envvar:NAME}}")


def expand(command: Sequence[str], point: Mapping[str, Any], program: str | None, json_file: Path) -> list[str]:
    """The words of a process.

    json_file: where the values lie for `${args_json_file}`. Python is the one that runs this, not that of the PATH.
    """
    words = {
        **arguments(point),
        "env": [ENV] if os.name == "posix" else [],
        "interpreter": [sys.executable],
        "program": [program] if program else [],
        "args_json_file": [str(json_file)],
    }
    line: list[str] = []
    for word in command:
        word = VARIABLE.sub(lambda found: os.environ.get(found[1], found[1]), word)
        line += words.get(word[2:-1], []) if MACRO.fullmatch(word) else [word]
    return line
