"""Everything known about every image, in one table; every count of a report is a group-by of it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.workspace import Workspace

SOURCES = ("real", "synthetic")
STAGES = ("ingest", "identical", "retrieve", "leakage", "duplicates", "text", "ood", "select")


def read_ledger(workspace: Path | Workspace, stages: Iterable[str] | None = None) -> pa.Table:
    """The index and the columns of all finished stages, one row an image, null where a stage did not see it.

    stages: names of the stages to join; by default those that the present selection was made from, so that a stage
    that ran under an earlier configuration, but has no part in the present one, is left out. So is a stage that read
    what an interrupted rerun has since replaced.
    """
    space = workspace if isinstance(workspace, Workspace) else Workspace(workspace)
    table = space.index
    select = space.current_record("select")
    used = set(select["print"]["reads"]) | {"select"} if select else set(STAGES)
    if stages is not None:
        used = set(stages)
    for stage in STAGES:
        if stage not in used or space.current_record(stage) is None:
            continue
        part = space.columns(stage).combine_chunks()
        places = np.full(table.num_rows, -1, np.int64)
        places[part["row"].to_numpy()] = np.arange(part.num_rows)
        indices = pa.array(places, mask=places < 0)
        for name in part.column_names:
            if name not in ("row", "key", *table.column_names):
                table = table.append_column(name, part[name].combine_chunks().take(indices))
            elif name == "reason":  # ingest's own reason over img2dataset's
                merged = pc.coalesce(part[name].combine_chunks().take(indices), table[name].combine_chunks())
                table = table.set_column(table.column_names.index(name), name, merged)
    return table


def drop_reasons(ledger: pa.Table) -> np.ndarray:
    """Why each row is out, object [N]: unreadable, identical, not_retrieved, leak, duplicate, or None.

    None is a row that is in. The first reason counts, in the order of the stages. Selection's own are not among them.
    """
    reasons = np.full(ledger.num_rows, None, dtype=object)

    def mark(mask: np.ndarray, reason: str) -> None:
        reasons[mask & np.equal(reasons, np.array(None))] = reason

    def flag(name: str, missing: bool) -> np.ndarray:
        return pc.fill_null(ledger[name], missing).to_numpy(zero_copy_only=False).astype(bool)

    if "readable" in ledger.column_names:
        mark(~flag("readable", False), "unreadable")
    if "identical_to" in ledger.column_names:
        mark(pc.is_valid(ledger["identical_to"]).to_numpy(zero_copy_only=False), "identical")
    if "retrieved" in ledger.column_names:
        mark(~flag("retrieved", False), "not_retrieved")
    if "leaks" in ledger.column_names:
        mark(flag("leaks", False), "leak")
    if "leaks_with_group" in ledger.column_names:
        mark(flag("leaks_with_group", False), "leak")
    if "duplicate_of" in ledger.column_names:
        mark(pc.is_valid(ledger["duplicate_of"]).to_numpy(zero_copy_only=False), "duplicate")
    return reasons


def of_other_source(ledger: pa.Table, reasons: np.ndarray, sources: Iterable[str]) -> np.ndarray:
    """Rows that no stage dropped, bool [N], but whose source (real or synthetic) the selection leaves out."""
    inside = pc.is_in(ledger["source"], value_set=pa.array(list(sources), pa.string()))
    return np.equal(reasons, np.array(None)) & ~inside.to_numpy(zero_copy_only=False).astype(bool)


def funnel(ledger: pa.Table, sources: Iterable[str] = SOURCES) -> list[dict[str, Any]]:
    """Images left after each step, real and synthetic (the paper's tables 7 and 8).

    sources: those that the selection may keep, where the ledger does not tell yet what it left out.
    """
    synthetic = pc.equal(ledger["source"], "synthetic").to_numpy(zero_copy_only=False).astype(bool)
    reasons = drop_reasons(ledger)
    steps = [("collected", "collected", None), ("readable", "readable", "unreadable"),
             ("distinct files", "identical_to", "identical"), ("retrieved", "retrieved", "not_retrieved"),
             ("not leaking", "leaks", "leak"), ("unique", "duplicate_of", "duplicate")]  # fmt: skip
    left = np.ones(ledger.num_rows, bool)
    rows = []
    for title, column, reason in steps:
        if reason is not None:
            if column not in ledger.column_names:
                continue
            left &= reasons != reason
        rows.append(
            {"stage": title, "real": int((left & ~synthetic).sum()), "synthetic": int((left & synthetic).sum())}
        )
    if "drop_reason" in ledger.column_names:
        others = pc.fill_null(pc.equal(ledger["drop_reason"], "source"), False).to_numpy(zero_copy_only=False)
    else:
        others = of_other_source(ledger, reasons, sources)
    if others.any():
        left &= ~others
        rows.append(
            {"stage": "of the source", "real": int((left & ~synthetic).sum()),
             "synthetic": int((left & synthetic).sum())}
        )  # fmt: skip
    if "keep" in ledger.column_names:
        kept = pc.fill_null(ledger["keep"], False).to_numpy(zero_copy_only=False).astype(bool)
        rows.append(
            {"stage": "kept", "real": int((kept & ~synthetic).sum()), "synthetic": int((kept & synthetic).sum())}
        )
    return rows
