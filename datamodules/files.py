"""Files that appear whole or not at all."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`, renamed to it when the block ends without an error.

    The folder is made if need be. A reader sees the old file or the new one, never a part: the bytes are flushed to
    the disk before the rename, and the rename before what comes next, such as the removal of an older file. After an
    error, or a kill, `path` is as it was. Raises OSError naming the folder where the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # One writer per name and process: the process number keeps two ranks from sharing a temporary file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        with suppress(OSError):  # some disks flush no folders
            _flush(path.parent)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise OSError(
            f"{path.parent} has no room for {path.name} ({os.strerror(error.errno)}): free space on its disk, or raise "
            "its quota, and run the same command again; what is finished is kept"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Writes a value as readable JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, sort_keys=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file, or None where there is no such file."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Sixteen hexadecimal digits that identify a JSON-like value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def within(path: str, workspace: Path) -> Path:
    """A path of the yaml: `workspace:scenes/test` lies in the workspace, any other is taken as it is."""
    prefix = "workspace:"
    return workspace / path.removeprefix(prefix) if path.startswith(prefix) else Path(path)
