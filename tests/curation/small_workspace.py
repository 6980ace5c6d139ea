"""A finished workspace of eight rows in which every fate occurs, written without running a stage."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curation.workspace import Workspace, write_part
from datamodules.descriptions import INDEX_SCHEMA
from datamodules.files import write_json

KEYS = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg", "g.jpg", "h.jpg"]
# a cannot be read, b leaks, c is a copy of d, h is not retrieved; d, e, f, g are ranked in the order g, e, d, f.


def write_stage(space: Workspace, name: str, rows: list[int], **columns: Any) -> None:
    """One part and the stage.json of a finished stage."""
    write_part(space.stage_folder(name), 0, np.array(rows, np.int64), pa.array(KEYS), columns, {})
    finish(space, name)


def finish(space: Workspace, name: str, **record: Any) -> None:
    content = {"fingerprint": f"print-of-{name}", "result": {}, "summary": "", "print": {"reads": {}}, **record}
    write_json(space.stage_folder(name) / "stage.json", content)


def save_workspace(root: Path) -> Workspace:
    space = Workspace(root)
    columns = {
        "key": KEYS, "source": ["real", "real", "synthetic", "real", "synthetic", "real", "real", "real"],
        "root": ["pool"] * 8, "shard": KEYS, "offset": [0] * 8, "size": [10] * 8, "ext": ["jpg"] * 8,
        "reason": [None, "HTTP 404", *[None] * 6],
    }  # fmt: skip
    missing = {name: [None] * 8 for name in INDEX_SCHEMA.names if name not in columns}
    space.write_index(pa.table({**columns, **missing}, schema=INDEX_SCHEMA), {"pool": root / "pool"}, rows_per_part=3)
    finish(space, "index")
    nothing = pa.nulls(7, pa.string())
    write_stage(
        space, "ingest", list(range(8)), readable=[False, *[True] * 7],
        reason=pa.concat_arrays([pa.array(["truncated"]), nothing]), width=pa.array([None, *[64] * 7], pa.int32()),
        height=pa.array([None, *[48] * 7], pa.int32()),
    )  # fmt: skip
    write_stage(space, "retrieve", list(range(1, 8)), retrieved=[True] * 6 + [False])
    similarity = pa.array([0.9] + [0.1] * 5, pa.float32())
    write_stage(
        space, "leakage", list(range(1, 7)), leaks=[True] + [False] * 5, leak_similarity=similarity,
        leaks_from=["tests/t.jpg"] * 6,
    )  # fmt: skip
    write_stage(space, "duplicates", [2, 3, 4, 5, 6], duplicate_of=pa.array(["d.jpg", None, None, None, None]))
    scores = pa.array([0.2, 0.5, 0.1, 0.9], pa.float32())
    write_stage(space, "ood", [3, 4, 5, 6], ood=scores, ood_general=scores, text_gap=scores)
    reasons = pa.array(["unreadable", "leak", "duplicate", None, None, None, "pareto", "not_retrieved"])
    write_stage(
        space, "select", list(range(8)), front=pa.array([None] * 3 + [2, 1, 3, 0, None], pa.int32()),
        removal_rank=pa.array([None] * 3 + [2, 1, 3, 0, None], pa.int64()),
        keep=[False, False, False, True, True, True, False, False], drop_reason=reasons,
    )  # fmt: skip
    reads = {name: f"print-of-{name}" for name in ("ingest", "retrieve", "leakage", "duplicates", "ood")}
    finish(space, "select", print={"reads": reads})
    return space
