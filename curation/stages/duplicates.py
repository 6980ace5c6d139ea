"""Near-duplicates: one image of every group of copies stays."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from curation.duplicates import choose_representatives, duplicate_groups
from curation.stage import Context, Stage
from curation.stages.rows import alive
from curation.workspace import write_part


@dataclass(frozen=True)
class Duplicates(Stage):
    """Keeps one image, drawn by a hash of seed and key, of every near-duplicate group (paper section 3.3).

    Args:
        threshold: Images with a higher cosine similarity are copies of each other (paper: 0.6).
        k: Look only at each image's k nearest neighbours (paper: 64); null compares all pairs, exactly.
    """

    name: ClassVar[str] = "duplicates"
    reads: ClassVar[tuple[str, ...]] = ("embed", "retrieve", "leakage")
    draws: ClassVar[bool] = True
    threshold: float = 0.6
    k: int | None = None

    def check(self, context: Context) -> None:
        """The threshold must be a cosine."""
        if not 0 < self.threshold < 1:
            raise ValueError(f"curation.duplicates.threshold must be a cosine in (0, 1), got {self.threshold}")

    def run(self, context: Context) -> dict[str, Any]:
        """Writes duplicate_group and duplicate_of."""
        return context.session.on_zero(lambda: self._run(context))

    def _run(self, context: Context) -> dict[str, Any]:
        rows, stored = context.workspace.embeddings("embed", "copy")
        kept = np.isin(rows, alive(context, "retrieve"), assume_unique=True)
        rows, embeddings = rows[kept], stored[kept]
        groups = duplicate_groups(embeddings, self.threshold, self.k)
        keys = context.workspace.index["key"].combine_chunks()
        own = keys.take(pa.array(rows))
        # Leaks are out before the draw, else a leaking representative would take its clean copies with it.
        eligible = np.isin(rows, alive(context, "retrieve", "leakage"), assume_unique=True)
        chosen = choose_representatives(groups, own, eligible, context.seed)
        copy = (chosen >= 0) & (chosen != np.arange(len(rows)))
        duplicate_of = own.take(pa.array(np.where(copy, chosen, 0), mask=~copy))
        columns = {"duplicate_group": rows[groups], "duplicate_of": duplicate_of}
        write_part(context.workspace.stage_folder(self.name), 0, rows, keys, columns, {})
        sizes = np.bincount(groups)
        many = int((sizes > 1).sum())
        dropped = int((copy & eligible).sum())
        return {"rows": len(rows), "groups": many, "largest": int(sizes.max(initial=0)),
                "summary": f"{dropped} of {len(rows)} images dropped, in {many} groups of copies"}  # fmt: skip
