"""What stays: Pareto fronts, knees or a target size, and the manifest. Imports no torch."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from curation.ledger import drop_reasons, read_ledger
from curation.manifest import SCORES, write_manifest
from curation.pareto import pareto_fronts
from curation.selection import knee_cut, removal_order
from curation.stage import Context, Stage
from curation.workspace import Workspace, write_part


@dataclass(frozen=True)
class Select(Stage):
    """Removes the images that are furthest from the domain: a total order, cut at a knee or at a size (paper 3.3).

    Args:
        sensitivity: Kneedle's S; higher cuts later (open in the paper; 1 is kneed's default).
        knee: first (kneed's), or pronounced: the deepest knee of the monotone curve, which removes more where the
            scores stay high before they fall.
        target_size: Images to keep; null cuts at the largest of the three knees.
    """

    name: ClassVar[str] = "select"
    reads: ClassVar[tuple[str, ...]] = ("ingest", "identical", "retrieve", "leakage", "duplicates", "text", "ood")
    sensitivity: float = 1.0
    knee: Literal["first", "pronounced"] = "first"
    target_size: int | None = None

    def check(self, context: Context) -> None:
        """Both settings must be positive."""
        if self.sensitivity < 0:
            raise ValueError(f"curation.select.sensitivity must not be negative, got {self.sensitivity}")
        if self.target_size is not None and self.target_size < 1:
            raise ValueError(f"curation.select.target_size must be at least 1, got {self.target_size}")

    def intact(self, context: Context) -> bool:
        """The manifest may have been deleted to have it written anew."""
        return context.workspace.manifest().exists()

    def check_ready(self, context: Context) -> None:
        """So many images must be left."""
        if self.target_size is not None:
            left = sum(reason is None for reason in drop_reasons(self._ledger(context)))
            size_within(self.target_size, left, "curation.select.target_size")

    def _ledger(self, context: Context) -> pa.Table:
        return read_ledger(context.workspace, [name for name in self.reads if name in context.stages])

    def run(self, context: Context) -> dict[str, Any]:
        """Writes front, removal_rank, keep, drop_reason of every row, and dataset/full."""
        return context.session.on_zero(lambda: self._run(context.workspace, context))

    def _run(self, workspace: Workspace, context: Context) -> dict[str, Any]:
        ledger = self._ledger(context)
        reasons = drop_reasons(ledger)
        rows = np.flatnonzero(np.equal(reasons, np.array(None)))
        order, fronts, scores = order_rows(ledger, rows)
        cut, knees = knee_cut(scores, fronts, self.sensitivity, self.knee)
        if self.target_size is not None:
            cut = len(rows) - self.target_size  # check_ready: not more than there are
        front = np.full(ledger.num_rows, -1, np.int32)
        rank = np.full(ledger.num_rows, -1, np.int64)
        front[rows] = fronts
        rank[rows[order]] = np.arange(len(rows))
        keep = rank >= cut
        reasons[(rank >= 0) & ~keep] = "pareto"
        columns = {"front": pa.array(front, mask=front < 0), "removal_rank": pa.array(rank, mask=rank < 0),
                   "keep": keep, "drop_reason": pa.array(reasons, pa.string())}  # fmt: skip
        every = np.arange(ledger.num_rows)
        write_part(workspace.stage_folder(self.name), 0, every, ledger["key"].combine_chunks(), columns, {})
        for name, column in columns.items():
            array = column if isinstance(column, pa.Array) else pa.array(column)
            ledger = ledger.append_column(name, pa.chunked_array([array]))
        checksum = write_manifest(ledger, keep, workspace.dataset_folder(), workspace.roots)
        kept = int(keep.sum())
        return {
            "rows": ledger.num_rows, "knees": knees, "cut": int(cut), "kept": kept, "target_size": self.target_size,
            "manifest_sha256": checksum,
            "summary": f"{kept} images kept, {int(cut)} of {len(rows)} removed as out of domain",
        }  # fmt: skip


def order_rows(ledger: pa.Table, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(order of removal, fronts, scores [n, 3]) of the given rows of a ledger."""
    missing = [name for name in SCORES if name not in ledger.column_names]
    if missing:
        raise ValueError(f"the workspace has no column {', '.join(missing)}; run `curate` with an `ood` stage first")
    scores = np.column_stack([ledger[name].to_numpy()[rows] for name in SCORES]).astype(np.float32)
    fronts = pareto_fronts(scores)
    return removal_order(scores, fronts), fronts, scores


def size_within(size: int, available: int, setting: str) -> int:
    """The size, if there are that many images. Raises ValueError naming the setting."""
    if size > available:
        raise ValueError(
            f"{setting} is {size}, but only {available} images are left after the earlier stages; "
            "ask for fewer, or collect a larger pool"
        )
    return size
