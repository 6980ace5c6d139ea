"""Errors as one paragraph: what is wrong with which setting or file, and the remedy."""

import os
import sys
import textwrap
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OURS = tuple(
    str(Path(__file__).resolve().parent.parent / name) + os.sep for name in ("pas_train", "curation", "datamodules")
)


def deliberate(error: BaseException) -> bool:
    """Whether one of our own lines raised this error, as a message to the person, rather than a library's failure."""
    frames = traceback.extract_tb(error.__traceback__)
    return (
        bool(frames) and frames[-1].filename.startswith(OURS) and isinstance(error, ValueError | OSError | RuntimeError)
    )


@contextmanager
def reported() -> Iterator[None]:
    """Ends the program with one paragraph for an error of ours, with the traceback for any other."""
    try:
        yield
    except Exception as error:
        if not deliberate(error):
            raise
        paragraph = textwrap.fill(f"pas_train: error: {error}", 118, break_long_words=False, break_on_hyphens=False)
        print(paragraph, file=sys.stderr, flush=True)
        sys.exit(1)
