"""A sweep's command is the line that `wandb agent` would run."""

import sys
from pathlib import Path
from typing import Any

import pytest

from pas_train.sweeping.expansion import check_command, expand

POINT = {"lr": 0.1, "flag": True, "off": False, "none": None, "list": [1, "a"], "model": {"depth": 2, "x": None}}
MACROS = ["args", "args_no_hyphens", "args_no_equals", "args_no_boolean_flags", "args_json", "args_append_hydra",
          "args_override_hydra", "args_json_file"]  # fmt: skip


def agents(command: list[str], point: dict[str, Any], program: str, json_file: str) -> list[str]:
    """As `wandb agent` does, by its own parts."""
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    words = utils.create_sweep_command(list(command))
    known = utils.create_sweep_command_args({"args": {name: {"value": value} for name, value in point.items()}})
    known |= {"interpreter": ["python"], "program": [program], "env": ["/usr/bin/env"], "args_json_file": [json_file]}
    line: list[str] = []
    for word in words:
        line += known[word[2:-1]] if word.startswith("${") and word.endswith("}") else [word]
    return line


@pytest.mark.parametrize("macro", MACROS)
def test_expand__is_wandbs(macro: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "here")
    command = ["${env}", "${interpreter}", "${program}", "--at=${envvar:PLACE}/${envvar:NOT_SET}", f"${{{macro}}}"]
    ours = expand(command, POINT, "train.py", Path("a.json"))
    assert [word if word != sys.executable else "python" for word in ours] == agents(
        command, POINT, "train.py", "a.json"
    )
    assert "--at=here/NOT_SET" in ours


def test_check_command__unknown_macro() -> None:
    check_command(["${env}", "a${b}", "${args}"])
    with pytest.raises(ValueError, match=r"\$\{arg\} is unknown; macros are "):
        check_command(["${arg}"])
