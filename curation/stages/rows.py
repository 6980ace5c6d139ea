"""Which rows of the index a stage still works on."""

import numpy as np

from curation.stage import Context


def alive(context: Context, *upto: str) -> np.ndarray:
    """Row numbers int64, ascending, that none of the named stages has dropped.

    A row is never deleted: readable says ingest, identical_to says identical (both always count), retrieved says
    retrieve, leaks says leakage, duplicate_of and leaks_with_group say duplicates. A stage that the yaml
    leaves out drops nothing.
    """
    workspace = context.workspace
    mask = workspace.rows_where("ingest", "readable")
    if "identical" in context.stages:
        mask &= ~workspace.rows_where("identical", "identical_to")
    if "retrieve" in upto and "retrieve" in context.stages:
        mask &= workspace.rows_where("retrieve", "retrieved")
    if "leakage" in upto and "leakage" in context.stages:
        mask &= ~workspace.rows_where("leakage", "leaks")
    if "duplicates" in upto and "duplicates" in context.stages:
        mask &= ~workspace.rows_where("duplicates", "duplicate_of")
        if whole_groups(context):
            mask &= ~workspace.rows_where("duplicates", "leaks_with_group")
    return np.flatnonzero(mask)


def whole_groups(context: Context) -> bool:
    """Whether a leak takes its near-duplicate group with it."""
    return bool(getattr(context.stages.get("leakage"), "whole_groups", False))
