"""Files of torch.save that are whole or not there at all, also on a full disk."""

import os
from pathlib import Path
from typing import IO, Any, cast

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor

from datamodules.files import atomic


def save_whole(value: Any, path: Path) -> None:
    """torch.save under another name, flushed to the disk and renamed.

    Raises OSError naming the file, the space that it needs and the space that there is.
    """
    try:
        with atomic(path) as temporary, open(temporary, "wb") as raw:
            file = _Remembering(raw)
            try:
                torch.save(value, cast(IO[bytes], file))
            except RuntimeError:  # torch's word for whatever went wrong in write()
                if file.error is None:
                    raise
                raise file.error from None
    except OSError as error:
        raise OSError(f"{path} could not be written ({_reason(error)}): {_room(value, path)}") from error


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint with `save_whole`; Lightning's own builds the file in memory first, and flushes nothing.

    While `tolerant`, an error of the disk is kept in `failure` instead of raised, so that all ranks reach the same
    barrier.
    """

    def __init__(self) -> None:
        self.tolerant = False
        self.failure: str | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes the file; raises OSError as `save_whole` does."""
        try:
            save_whole(checkpoint, Path(path))
        except OSError as error:
            self.failure = str(error)
            if not self.tolerant:
                raise


class _Remembering:
    """A file for torch.save, which hides the error of a write behind one of its own."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return int(self.file.write(data))
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        try:
            self.file.flush()
        except OSError as error:
            self.error = self.error or error
            raise


def _reason(error: OSError) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    return os.strerror(cause.errno) if cause.errno else str(cause)


def _room(checkpoint: dict[str, Any], path: Path) -> str:
    """How much a checkpoint needs, and how much its disk has."""
    stack: list[Any] = [checkpoint]
    needed = 0
    while stack:
        value = stack.pop()
        if isinstance(value, Tensor):
            needed += value.numel() * value.element_size()
        elif isinstance(value, dict):
            stack.extend(value.values())
        elif isinstance(value, list | tuple):
            stack.extend(value)
    places = os.statvfs(path.parent)
    return f"it needs {_size(needed)}, and its disk has {_size(places.f_bavail * places.f_frsize)} free"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
