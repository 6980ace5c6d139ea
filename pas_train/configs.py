"""Config files by bare name: a file in the current directory, else a packaged one."""

import ast
import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path

# Beside the packages, in a checkout as in an installation; a folder `configs` of the user's own does not shadow it.
FOLDER = Path(__file__).resolve().parent.parent / "configs"
LIST_OF_SECTIONS = re.compile(r"\s*\[\s*\{")
LABELLED = re.compile(r"--config\.[\w.-]+=")


class ConfigError(ValueError):
    """A config that is neither a file nor packaged."""


def packaged() -> list[str]:
    """Names of the packaged configs."""
    return sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.yaml"))


def find_config(name: str) -> Path:
    """The file for a config's name. Raises ConfigError with the choices."""
    path = Path(name)
    if path.is_file():
        return path
    for candidate in (FOLDER / name, FOLDER / f"{name}.yaml"):
        if candidate.is_file():
            return candidate
    choices = [one for one in packaged() if not one.startswith("sweeps/")]  # those are for the command `sweep`
    close = difflib.get_close_matches(name, choices, n=2)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise ConfigError(
        f"--config {name}: no such file, and no packaged config of that name; {hint}packaged are {', '.join(choices)}"
    )


def resolve_configs(args: Sequence[str]) -> list[str]:
    """Arguments with the file's path in every `--config NAME`, `--config=NAME` and `-c NAME`; deep nulls arrive.

    A sweep names two yamls `config.1` and `config.2`, as its parameters have different names, and writes null as None.
    """
    resolved: list[str] = []
    pending = False
    for arg in _in_order([_with_null(arg, before) for before, arg in zip(["", *args], args, strict=False)]):
        if pending:
            resolved.append(str(find_config(arg)))
            pending = False
        elif arg in ("--config", "-c"):
            resolved.append("--config")
            pending = True
        elif arg.startswith("--config="):
            resolved.append(f"--config={find_config(arg.removeprefix('--config='))}")
        else:
            resolved.append(arg)
    if pending:
        raise ConfigError("--config needs a file")
    return _whole_lists(_deep_nulls(resolved))


def with_run_config(args: Sequence[str]) -> tuple[list[str], Path | None]:
    """Arguments with the config.yaml of a checkpoint's run before all others, where none of them tells the model.

    Returns that file, or None where it is not needed, or not there.
    """
    values = {name: _values(args, name) for name in ("--ckpt_path", "--config")}
    if not values["--ckpt_path"] or any(arg.startswith("--model") for arg in args):
        return list(args), None
    folder = Path(values["--ckpt_path"][-1]).absolute().parent
    own = folder.parent / "config.yaml"
    if folder.name != "checkpoints" or not own.is_file() or any(map(_has_model, values["--config"])):
        return list(args), None
    return ["--config", str(own), *args], own


def _values(args: Sequence[str], name: str) -> list[str]:
    """What an argument was given, each time."""
    after = [value for key, value in zip(args, args[1:], strict=False) if key == name]
    return after + [arg.partition("=")[2] for arg in args if arg.startswith(f"{name}=")]


def _has_model(config: str) -> bool:
    """Whether a yaml, or a text of JSON, has the section `model`; who parses it says what is wrong with it."""
    import yaml

    try:
        content = yaml.safe_load(config if config.lstrip().startswith("{") else Path(config).read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and "model" in content


def share_seed(args: Sequence[str]) -> list[str]:
    """Arguments with `--seed N` as the seeds of model and data, so that a sweep over seeds has one parameter."""
    kept, seeds = [], []
    pending = False
    for arg in args:
        key, equals, value = arg.partition("=")
        if pending or (key == "--seed" and equals):
            seeds = [f"--{part}.init_args.seed={arg if pending else value}" for part in ("model", "data")]
            pending = False
        elif arg == "--seed":
            pending = True
        else:
            kept.append(arg)
    if pending:
        raise ConfigError("--seed needs a number")
    return kept + seeds  # behind the yamls that name the classes


def _whole_lists(args: list[str]) -> list[str]:
    """Arguments with an empty list before each list of sections, so that it replaces the yaml's.

    jsonargparse fills what an item leaves out from the yaml's item at its place: `[{name: food-101, root: DIR}]` would
    be judged on the images of another data set.
    """
    result: list[str] = []
    for before, arg in zip(["", *args], args, strict=False):
        key, equals, value = arg.partition("=") if arg.startswith("--") else (before, "", arg)
        if key.startswith("--") and "=" not in key and LIST_OF_SECTIONS.match(value):
            result.insert(len(result) - (not equals), f"{key}=[]")
        result.append(arg)
    return result


def _in_order(args: list[str]) -> list[str]:
    """Arguments with `--config.LABEL=NAME` as `--config=NAME`, in the order of their labels; null names no yaml."""
    places = [place for place, arg in enumerate(args) if LABELLED.match(arg)]
    ordered = sorted((args[place] for place in places), key=_label)
    for place, arg in zip(places, ordered, strict=True):
        args[place] = f"--config={arg.partition('=')[2]}"
    return [arg for arg in args if arg != "--config=null"]


def _label(arg: str) -> str:
    """What comes before the name of a yaml, to be sorted by: 10 behind 9."""
    return re.sub(r"[0-9]+", lambda number: number[0].zfill(9), arg.partition("=")[0])


def _with_null(arg: str, before: str) -> str:
    """An argument of a sweep, which writes values as Python does, with null for None."""
    key, equals, value = arg.partition("=") if arg.startswith("--") else ("", "", arg)
    alone = not equals and before.startswith("--") and "=" not in before
    if not equals and not alone:
        return arg
    if value == "None":
        return f"{key}{equals}null"
    if "None" in value and value[:1] in "[{":
        try:
            value = json.dumps(ast.literal_eval(value))
        except (ValueError, SyntaxError, TypeError):  # no value of Python's, but a yaml's
            return arg
    return f"{key}{equals}{value}"


def _deep_nulls(args: list[str]) -> list[str]:
    """Arguments with every `--curation.A.B.C null` as a config of its own: jsonargparse makes the text "None" of it."""
    result: list[str] = []
    for arg in args:
        before = result[-1] if result else ""
        key, _, value = (before, "", arg) if "=" not in arg else arg.partition("=")
        if value == "null" and key.startswith("--curation.") and key.count(".") > 2:
            if "=" not in arg:
                result.pop()
            section: object = None
            for part in reversed(key.removeprefix("--").split(".")):
                section = {part: section}
            result += ["--config", json.dumps(section)]
        else:
            result.append(arg)
    return result
