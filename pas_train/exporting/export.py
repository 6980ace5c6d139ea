"""One export: a folder that is written and verified under another name, and appears when it is right."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from datamodules.files import NO_ROOM
from pas_train.exporting.card import card
from pas_train.exporting.registry import target
from pas_train.exporting.source import Source
from pas_train.exporting.target import NamedTarget, Target
from pas_train.exporting.verifying import Verified, missing, verify, write_proof


def export(source: Source, target_name: str, output: Path, python: str | None = None) -> Verified:
    """Writes a backbone in a target's format and verifies it.

    python: of an environment that has the target's library. Raises ValueError or OSError; `output` is not there then.
    """
    made = target(target_name)
    check(made, source, output, python)
    with whole_folder(output) as folder:
        made.write(source, folder)
        write_proof(made, source, folder)
        verified = verify(made, source, folder, python)
        (folder / "README.md").write_text(card(made, source, verified))
        mode = (folder / "README.md").stat().st_mode  # safetensors' files are for their owner's eyes alone
        for file in folder.iterdir():
            file.chmod(mode)
    return verified


def check(made: Target, source: Source, output: Path, python: str | None = None) -> None:
    """Raises what would make an export fail, before anything is written."""
    if output.exists() or output.is_symlink():
        raise ValueError(f"--output: {output} exists; remove it, or name another folder with --output")
    made.check(source)
    absent = [name for name in made.writers if find_spec(name) is None]
    if absent:
        raise ValueError(f"--to {made.name} needs {' and '.join(absent)}: {made.install}")
    if python is not None and shutil.which(python) is None:
        raise ValueError(f"--python: {python} is no program; give the path of a Python, such as ENV/bin/python")
    if python is None and not made.installed() and not isinstance(made, NamedTarget):
        raise ValueError(missing(made))


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path`, renamed to it when the block ends without an error, else removed.

    Folders above it that are made for it are removed as well, where they are empty.
    """
    above = [one for one in path.parents if not one.exists()]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _make(temporary)
        yield temporary
        os.rename(temporary, path)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise OSError(
                f"--output: {path.parent} has no room for the export ({os.strerror(error.errno)}); free space on its "
                "disk, or name another folder with --output"
            ) from error
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) and path.exists():
            raise FileExistsError(
                f"--output: {path} has appeared while this export was written, and was left as it is; remove it, or "
                "name another folder with --output"
            ) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for folder in above:
            with suppress(OSError):
                folder.rmdir()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        why = os.strerror(error.errno or 0)
        raise OSError(f"--output: {folder.parent} cannot be written to ({why}); name another with --output") from error
