"""Errors as one paragraph: what is wrong with which setting or file, and the remedy."""

import os
import re
import signal
import sys
import textwrap
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OURS = tuple(
    str(Path(__file__).resolve().parent.parent / name) + os.sep for name in ("pas_train", "curation", "datamodules")
)

# The last frame of a traceback as text, and what follows the name of the error.
WORKER = re.compile(
    r"in DataLoader worker process .*\n  File \"(?P<file>[^\"]+)\"[^\n]*(\n    [^\n]*)*\n[\w.]+: (?P<message>.+)",
    re.DOTALL,
)


def deliberate(error: BaseException) -> bool:
    """Whether one of our own lines raised this error, as a message to the person, rather than a library's failure."""
    frames = traceback.extract_tb(error.__traceback__)
    return (
        bool(frames) and frames[-1].filename.startswith(OURS) and isinstance(error, ValueError | OSError | RuntimeError)
    )


def message_of(error: BaseException) -> str | None:
    """The message to the person, if the error is one of ours, also where a library passed it on; else None."""
    if deliberate(error):
        return str(error)
    if isinstance(error, ValueError | OSError | RuntimeError):
        found = WORKER.search(str(error))  # a loader's process sends its traceback as text
        if found is not None and found["file"].startswith(OURS):
            return found["message"].strip()
    if type(error).__name__ == "MisconfigurationException":  # Lightning's own word for a wrong setting
        return f"trainer: {error}"
    # jsonargparse wraps what a model or data module says of its settings.
    return message_of(error.__cause__) if error.__cause__ is not None else None


def plainly() -> None:
    """Lets warnings of ours be one paragraph too, without the line of the program that they come from."""
    others = warnings.formatwarning

    def format_warning(message: Warning | str, category: type[Warning], filename: str, *more: Any) -> str:
        if not filename.startswith(OURS):
            return others(message, category, filename, *more)
        return paragraph(f"pas_train: warning: {message}") + "\n"

    if getattr(others, "__module__", None) != __name__:
        warnings.formatwarning = format_warning  # type: ignore[assignment]


def paragraph(line: str) -> str:
    """A line that is broken where words end; an item of a list is indented."""
    indent = "  " if line.startswith("- ") else ""
    return textwrap.fill(line, 118, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


@contextmanager
def reported() -> Iterator[None]:
    """Ends the program with one paragraph for an error of ours, with the traceback for any other."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as `head` has: no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed at the end
    except KeyboardInterrupt:
        print("pas_train: stopped by Ctrl-C", file=sys.stderr, flush=True)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        message = message_of(error)
        if message is None:
            raise
        for line in f"pas_train: error: {message}".split("\n"):  # a list has a line for each item
            print(paragraph(line), file=sys.stderr, flush=True)
        sys.exit(1)
