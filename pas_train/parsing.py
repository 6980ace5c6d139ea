"""Parsers that say what is wrong in one short paragraph, not after a page of usage."""

import argparse
import dataclasses
import difflib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentParser


def short_error(message: str) -> str:
    """One paragraph of at most a few lines."""
    text = " ".join(message.split())
    return textwrap.fill(f"pas_train: error: {text}", 118, break_long_words=False, break_on_hyphens=False)


# What jsonargparse says of a key that it does not know: the key's last part, or all of it.
UNKNOWN = re.compile(
    r"Option '(?P<option>[\w.]+)' is not accepted|unrecognized arguments: --(?P<argument>[\w.]+)"
    r"|does not accept option '(?P<section>[\w.]+)'|Key '(?P<key>[\w.]+)' is not expected"
)

# What it says of a class that is not there, among what every other type of the key would have been.
WRONG_CLASS = re.compile(
    r"key \"(?P<key>[\w.]+)\": .*Problem with given class_path '(?P<name>[^']*)': (?P<reason>.*?)"
    r"( - Expected a | Given value type|$)"
)
# What it says of a name that is no class of the kind that the key takes.
NO_CLASS = re.compile(r"key \"(?P<key>[\w.]+)\": .*Expected a dot import path string: (?P<name>\S+)")
# Keys that take a class of our own by its short name.
CHOICES = {"method": ("curation.selectors.base", "Selector"), "detector": ("curation.text.detector", "TextDetector")}
# What it says of a value of another type.
WRONG_TYPE = re.compile(r"key \"(?P<key>[\w.]+)\": .*?(?:Got value|Given value): (?P<value>.*)$")
EXPECTED = re.compile(r"Expected a (?:<class '(?P<kind>\w+)'>|typing\.Literal\[(?P<choices>[^\]]+)\])")
TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "list": "a list",
         "dict": "names with values ({name: value})", "NoneType": "null"}  # fmt: skip
REQUIRED = "the following arguments are required: "


def explain(message: str, known: Sequence[str]) -> str:
    """The message; for an unknown key with the whole key as the person wrote it, and the keys that are close."""
    wrong_class, found = WRONG_CLASS.search(" ".join(message.split())), UNKNOWN.search(message)
    if wrong_class is not None:
        return f"{wrong_class['key']}.class_path: {wrong_class['name']} cannot be used: {wrong_class['reason']}"
    no_class = NO_CLASS.search(" ".join(message.split()))
    if no_class is not None and (choices := _choices(no_class["key"].rpartition(".")[2])):
        return f"{_as_written(no_class['key'])[0]}: {no_class['name']} is unknown; choices: {', '.join(choices)}"
    if message.startswith(REQUIRED):
        return f"{message.removeprefix(REQUIRED)} must be given, in a yaml (--config FILE) or as --KEY VALUE"
    if found is None:
        return _damaged_yaml() or _wrong_type(" ".join(message.split())) or message
    name = next(value for value in found.groups() if value)
    key, where = _as_written(name)
    section, _, last = key.rpartition(".")
    own = _keys_of(section)
    if own:  # of the section that the key stands in, rather than of another one
        close = _close(last, own)
        hint = f"; did you mean {' or '.join(close)}?" if close else f"; {section} takes {', '.join(own)}"
        return f"unknown key {key}{where}{hint}"
    # The innermost part that is close to another key.
    mistaken = [part for part in reversed(key.split(".")) if part not in known]
    close = next((c for part in mistaken if (c := _close(part, known))), [])
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"unknown key {key}{where}{hint} (--print_config shows every key)"


def _keys_of(section: str) -> list[str]:
    """The keys of a section below one of SECTIONS; none where that takes what is no one dataclass."""
    first, *parts = section.split(".")
    module, name = SECTIONS.get(first, ("", ""))
    kind = getattr(sys.modules[module], name) if module in sys.modules else None
    for part in parts:
        hint = get_type_hints(kind).get(part) if kind is not None else None
        below = [one for one in (hint, *get_args(hint)) if dataclasses.is_dataclass(one)]
        kind = below[0] if len(below) == 1 else None
    return [field.name for field in dataclasses.fields(kind)] if kind is not None else []


def _wrong_type(message: str) -> str | None:
    """What the key takes and what it was given; None for other messages."""
    found, expected = WRONG_TYPE.search(message), [match.groupdict() for match in EXPECTED.finditer(message)]
    kinds = [item["choices"] or TYPES.get(item["kind"]) for item in expected]
    if found is None or not kinds or None in kinds:
        return None
    key, where = _as_written(found["key"])
    return f"{key}{where} must be {' or '.join(str(kind) for kind in dict.fromkeys(kinds))}, got {found['value']}"


def _choices(key: str) -> list[str]:
    """Short names of the classes that a key takes."""
    module, base = CHOICES.get(key, ("", ""))
    if module not in sys.modules:
        return []
    return sorted(kind.__name__ for kind in getattr(sys.modules[module], base).__subclasses__())


def _close(name: str, known: Sequence[str]) -> list[str]:
    """Up to three names that are like this one, and nearly as like as the likest."""
    found = difflib.get_close_matches(name, known, n=3, cutoff=0.7)
    like = [difflib.SequenceMatcher(None, one, name).ratio() for one in found]
    return [one for one, ratio in zip(found, like, strict=True) if ratio > like[0] - 0.1]


def _config_files() -> Iterator[str]:
    """The yaml files of the command line."""
    for file, before in zip(sys.argv[2:], sys.argv[1:], strict=False):
        if before in ("-c", "--config") and not file.startswith("{"):  # not a deep null
            yield file
    yield from (argument.removeprefix("--config=") for argument in sys.argv[1:] if argument.startswith("--config="))


def _damaged_yaml() -> str | None:
    """What is wrong with a file of the command line that is no yaml of keys; the parser's message lacks its name."""
    for file in _config_files():
        try:
            content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except yaml.MarkedYAMLError as error:
            place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
            return f"--config {file} is no valid yaml ({place}{error.problem}); correct that line"
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            return f"--config {file} cannot be read as yaml ({error})"
        if not isinstance(content, dict | None):
            return f"--config {file} holds no keys; expected lines such as `workspace: runs/mine`"
    return None


def _as_written(name: str) -> tuple[str, str]:
    """The full key that ends in `name`, from the command line or from a yaml file of it, and " in FILE"."""
    for argument in sys.argv[1:]:
        key = argument.removeprefix("--").partition("=")[0]
        if argument.startswith("--") and (key == name or key.endswith("." + name)):
            return key, ""
    for option, value in zip(sys.argv[1:], sys.argv[2:], strict=False):  # --section '{key: value}'
        if option.startswith("--") and value.startswith("{"):
            with suppress(yaml.YAMLError):
                for key in _keys(yaml.safe_load(value)):
                    if key == name or key.endswith("." + name):
                        return f"{option.removeprefix('--')}.{key}", ""
    for file in _config_files():
        if Path(file).is_file():
            with suppress(yaml.YAMLError, OSError):
                for key in _keys(yaml.safe_load(Path(file).read_text())):
                    if key == name or key.endswith("." + name):
                        return key, f" in {file}"
    return name, ""


def _keys(value: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield f"{prefix}{name}"
            yield from _keys(inner, f"{prefix}{name}.")


def _known(parser: Any) -> list[str]:
    """Every part of every key, those of the data set's pipeline and of our modules included."""
    below = [sub for action in parser._actions for sub in (getattr(action, "_name_parser_map", None) or {}).values()]
    actions = [action for one in (parser, *below) for action in one._actions]
    names = {part for action in actions for part in str(action.dest).split(".")}
    classes: list[Any] = []
    for module, attribute in (
        ("curation.pipeline", "Curation"), ("datamodules.pretrain", "PretrainDataModule"),
        ("pas_train.methods", "MoCoV3"), ("pas_train.methods", "NNCLR"),
        ("pas_train.methods.base", "PretrainingMethod"), ("curation.clipn_training", "TrainNoBranch"),
        ("datamodules.captions", "CaptionDataModule"), ("pas_train.protosim", "ProtoSim"),
        ("datamodules.multi_crop", "MultiCropDataModule"), ("pas_train.evaluation.evaluation", "EvaluationSet"),
    ):  # fmt: skip
        if module in sys.modules:  # else its keys cannot have been asked for
            classes.append(getattr(sys.modules[module], attribute))
    while classes:
        kind = classes.pop()
        names |= set(inspect.signature(kind.__init__).parameters)
        if dataclasses.is_dataclass(kind):
            hints = get_type_hints(kind)
            inner = [hints[item.name] for item in dataclasses.fields(kind)]
            classes += [c for hint in inner for c in (hint, *get_args(hint)) if dataclasses.is_dataclass(c)]
    return sorted(names - {"self"})


# Sections of a yaml whose keys are the fields of a dataclass.
SECTIONS = {"curation": ("curation.pipeline", "Curation"), "tracking": ("pas_train.fitting", "Tracking"),
            "evaluation": ("pas_train.evaluation.evaluation", "Evaluation")}  # fmt: skip


def _unknown_section() -> str | None:
    """A key of the yamls that holds no keys of its own and that its section has not: jsonargparse passes over it."""
    kinds = {
        name: getattr(sys.modules[module], kind) for name, (module, kind) in SECTIONS.items() if module in sys.modules
    }
    for file in _config_files():
        with suppress(yaml.YAMLError, OSError, UnicodeDecodeError):
            content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
            for name, kind in kinds.items() if isinstance(content, dict) else ():
                found = _unknown_field(content.get(name), kind)
                if found is not None:
                    return f"{name}.{found}"
    return None


def _unknown_field(value: Any, kind: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    hints = get_type_hints(kind)
    for key, inner in value.items():
        if key not in {field.name for field in dataclasses.fields(kind)}:
            if inner == {} and "." not in str(key):
                return str(key)
            continue
        below = [one for one in (hints[key], *get_args(hints[key])) if dataclasses.is_dataclass(one)]
        found = _unknown_field(inner, below[0]) if len(below) == 1 else None
        if found is not None:
            return f"{key}.{found}"
    return None


class ShortErrors:
    """Mixin for a jsonargparse parser."""

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """The arguments; also a mistyped section that is empty, as in `evaluation: {few_shot: {}}`, is an error."""
        parsed = super().parse_args(*args, **kwargs)  # type: ignore[misc]
        unknown = _unknown_section()
        if unknown is not None:
            self.error(f"Key '{unknown}' is not expected")
        return parsed

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Prints the paragraph and ends with status 2."""
        print(short_error(explain(message, _known(self))), file=sys.stderr)
        sys.exit(2)


class Parser(ShortErrors, ArgumentParser):
    """The parser of the commands that Lightning does not stand behind."""


class PlainParser(argparse.ArgumentParser):
    """The parser of the commands that read no yaml."""

    def error(self, message: str) -> Any:
        """Prints one paragraph, without the usage, and ends with status 2."""
        print(short_error(message), file=sys.stderr)
        sys.exit(2)


def section_parser(description: str) -> Parser:
    """A parser of the yaml that all commands share; a command adds the sections that it reads."""
    parser = Parser(description=description, parser_mode="omegaconf", prog="pas_train", allow_abbrev=False)
    parser.add_argument("-c", "--config", action="config", help="yaml file, or the name of a packaged one")
    parser.add_argument(
        "--workspace", type=str | None, default=None, help="folder of the data set; default runs/<domain>"
    )
    parser.add_argument("--pool", type=str | None, default=None, help="folder of images, or of shards")
    return parser


def accept_sections(parser: Any, *names: str) -> None:
    """Sections of the yaml that belong to other commands: read, not looked at."""
    for name in names:
        parser.add_argument(f"--{name}", type=_unread, default=None, help=argparse.SUPPRESS)


def _unread(value: Any) -> Any:
    """A section as it is: of the type Any, the classes that it names would be imported, and with them torch."""
    return value
