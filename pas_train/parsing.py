"""Parsers that say what is wrong in one short paragraph, not after a page of usage."""

import sys
import textwrap
from typing import Any

from jsonargparse import ArgumentParser


def short_error(message: str) -> str:
    """One paragraph of at most a few lines."""
    text = " ".join(message.split())
    return textwrap.fill(f"pas_train: error: {text}", 118, break_long_words=False, break_on_hyphens=False)


class ShortErrors:
    """Mixin for a jsonargparse parser."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Prints the paragraph and ends with status 2."""
        print(short_error(message), file=sys.stderr)
        sys.exit(2)


class Parser(ShortErrors, ArgumentParser):
    """The parser of the commands that Lightning does not stand behind."""


def section_parser(description: str) -> Parser:
    """A parser of the yaml that all commands share; a command adds the sections that it reads."""
    parser = Parser(description=description, parser_mode="omegaconf", prog="pas_train")
    parser.add_argument("-c", "--config", action="config", help="yaml file, or the name of a packaged one")
    parser.add_argument(
        "--workspace", type=str | None, default=None, help="folder of the data set; default runs/<domain>"
    )
    parser.add_argument("--pool", type=str | None, default=None, help="folder of images, or of shards")
    return parser


def accept_sections(parser: Any, *names: str) -> None:
    """Sections of the yaml that belong to other commands: read, not looked at."""
    for name in names:
        parser.add_argument(f"--{name}", type=Any, default=None, help=f"(section of other commands) {name}")
