"""Which rows of the index a stage still works on."""

import numpy as np

from curation.stage import Context


def alive(context: Context, *upto: str) -> np.ndarray:
    """Row numbers int64, ascending, that none of the named stages has dropped.

    A row is never deleted: readable says ingest, retrieved says retrieve, leaks says leakage, duplicate_of says
    duplicates. A stage that the yaml leaves out drops nothing.
    """
    workspace = context.workspace
    mask = workspace.scatter("ingest", "readable", False).astype(bool)
    if "retrieve" in upto and "retrieve" in context.stages:
        mask &= workspace.scatter("retrieve", "retrieved", False).astype(bool)
    if "leakage" in upto and "leakage" in context.stages:
        mask &= ~workspace.scatter("leakage", "leaks", False).astype(bool)
    if "duplicates" in upto and "duplicates" in context.stages:
        copies = workspace.scatter("duplicates", "duplicate_of", None)
        mask &= np.fromiter((value is None for value in copies), bool, len(copies))
    return np.flatnonzero(mask)
