"""metrics.csv as one file without gaps or doubles, however often its run was broken off."""

import csv
import errno
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from datamodules.files import atomic

NAME = "metrics.csv"


def read_history(path: Path, before: int | None = None) -> list[dict[str, Any]]:
    """The rows of a metrics.csv without their empty values; before: of earlier steps only."""
    if not path.exists():
        return []
    whole, _, _ = path.read_bytes().rpartition(b"\n")  # a row that was being written has no end
    rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(io.StringIO(whole.decode()))]
    return [row for row in rows if before is None or int(row["step"]) < before]


class History(ExperimentWriter):
    """What Lightning's CSVLogger writes with, begun with the rows that are to stay.

    Lightning's own removes the file first, and a full disk ends the training in the middle of a row.
    """

    def __init__(self, log_dir: str, rows: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__(log_dir)
        self.path = Path(log_dir) / NAME
        self.metrics = list(rows)
        self._warned = False
        if rows:
            self._write_whole([], self._keys())
        else:
            self.path.unlink(missing_ok=True)

    def save(self) -> None:
        """Appends the new rows; where the disk refuses, they wait for the next time."""
        if not self.metrics:
            return
        keys = self._keys()
        try:
            if keys == self.metrics_keys:
                self._append()
            else:
                self._write_whole(read_history(self.path), keys)
        except OSError as error:
            if not self._warned:
                rank_zero_warn(f"{self.path} cannot be written ({error}); its rows are kept for the next time")
            self._warned = True

    def _keys(self) -> list[str]:
        return sorted(set(self.metrics_keys).union(*self.metrics))

    def _write_whole(self, rows: list[dict[str, Any]], keys: list[str]) -> None:
        with atomic(self.path) as temporary:
            temporary.write_bytes((",".join(keys) + "\r\n").encode() + _lines([*rows, *self.metrics], keys))
        self.metrics_keys, self.metrics = keys, []

    def _append(self) -> None:
        lines, size = _lines(self.metrics, self.metrics_keys), self.path.stat().st_size
        with open(self.path, "ab", buffering=0) as file:  # one write, so that a kill leaves all or nothing of it
            try:
                if file.write(lines) < len(lines):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise
        self.metrics = []

    def _check_log_dir_exists(self) -> None:
        """Lightning's removes the file."""


def _lines(rows: Sequence[dict[str, Any]], keys: list[str]) -> bytes:
    text = io.StringIO()
    csv.DictWriter(text, keys).writerows(rows)
    return text.getvalue().encode()


def keep_history(logger: CSVLogger, before: int | None) -> None:
    """Lets a logger go on with its file. before: the step that the training goes on from; None keeps all rows."""
    logger._experiment = History(logger.log_dir, read_history(Path(logger.log_dir) / NAME, before))
