"""The identity of evaluation images that two machines agree on, wherever the files lie."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.annotated import Annotated
from datamodules.dense import BoxedImages, MaskedImages
from datamodules.files import fingerprint


def portable_identity(images: Annotated) -> str:
    """Of names below their common folder, sizes, what is known, classes.

    What is known are labels, the files of masks, or boxes. Of images that are no files it is the source's own.
    """
    if not images.paths:
        return images.fingerprint()
    if isinstance(images, MaskedImages):
        known: Any = _files(images.masks)
    elif isinstance(images, BoxedImages):
        known = [[boxes.tolist() for boxes in each] for each in (images.boxes, images.crowds or [])]
    else:
        known = images.labels.tolist()
    return fingerprint([_files(images.paths), known, images.classes])


def _files(paths: Sequence[Path]) -> list[list[Any]]:
    """Names below their common folder, and sizes."""
    whole = [os.path.abspath(path) for path in paths]
    above = os.path.commonpath([os.path.dirname(path) for path in whole])
    return [[os.path.relpath(path, above), _size(path)] for path in whole]


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:  # who reads it will say so
        return None
