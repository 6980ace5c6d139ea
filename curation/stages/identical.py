"""Files with the same bytes: one of them stays, found before any model runs."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.representatives import draw_one
from curation.stage import Context, Stage
from curation.workspace import write_part


@dataclass(frozen=True)
class Identical(Stage):
    """Keeps one file, drawn by a hash of seed and key, of those with equal SHA-256; a real one before a generated one.

    The others are neither embedded nor scored; they belong to the near-duplicate group of the file that stays.
    """

    name: ClassVar[str] = "identical"
    reads: ClassVar[tuple[str, ...]] = ("ingest",)
    draws: ClassVar[bool] = True

    def run(self, context: Context) -> dict[str, Any]:
        """Writes identical_to of every readable row."""
        return context.session.on_zero(lambda: self._run(context))

    def _run(self, context: Context) -> dict[str, Any]:
        workspace, index = context.workspace, context.workspace.index
        seen = workspace.columns("ingest", ["readable", "sha256"])
        seen = seen.filter(seen["readable"])
        rows = seen["row"].to_numpy()
        group = seen["sha256"].combine_chunks().dictionary_encode().indices.to_numpy()
        keys = index["key"].combine_chunks()
        own = keys.take(pa.array(rows))
        generated = pc.equal(index["source"], "synthetic").to_numpy()[rows]
        chosen = draw_one(group, own, context.seed, worse=generated)
        copy = chosen != np.arange(len(rows))
        columns = {"identical_to": own.take(pa.array(np.where(copy, chosen, 0), mask=~copy))}
        write_part(workspace.stage_folder(self.name), 0, rows, keys, columns, {})
        files = len(np.unique(chosen[copy]))
        return {"rows": len(rows), "identical": int(copy.sum()), "files": files,
                "summary": f"{int(copy.sum())} of {len(rows)} images have the bytes of another one"}  # fmt: skip
