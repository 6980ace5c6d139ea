"""The leakage gate: no image of the data set may be a copy of an evaluation image."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.images import ImageReader
from curation.leakage import max_similarity
from curation.prediction import Loop
from curation.stage import Context, Stage, runtime
from curation.stages.embed import Embed, embed_rows
from curation.stages.ingest import Ingest, listing, look_at_rows
from curation.stages.rows import alive
from curation.workspace import Workspace, write_part
from datamodules.files import within
from datamodules.indexing import index_pool


@dataclass(frozen=True)
class Leakage(Stage):
    """Drops images that are too similar to a test image (paper section 3.3; exact maximum over all test images).

    Args:
        tests: Folders (or shards) of test images; `workspace:` begins a path inside the workspace.
        threshold: Images with a higher cosine similarity to any test image are dropped (paper: 0.45).
        whole_groups: Drops, with an image that leaks, the whole group of near-duplicates that it is in: a copy of a
            copy of a test image may lie just below the threshold.
        batch_size: Test images per batch.
    """

    name: ClassVar[str] = "leakage"
    reads: ClassVar[tuple[str, ...]] = ("embed", "retrieve")
    tests: list[str] = field(default_factory=list)
    threshold: float = 0.45
    whole_groups: bool = False
    batch_size: int = runtime(64)

    def check(self, context: Context) -> None:
        """The folders must be there, and the threshold be a cosine."""
        if not -1 <= self.threshold <= 1:
            raise ValueError(f"curation.leakage.threshold must be a cosine in [-1, 1], got {self.threshold}")
        if not self.tests:
            raise ValueError("curation.leakage.tests names no folder; give the evaluation images, or `leakage: null`")
        for test in self.tests:
            path = within(test, context.workspace.root)
            if test not in self._made(context) and not path.exists():
                raise FileNotFoundError(f"curation.leakage.tests: {path} does not exist")

    def _folders(self, context: Context) -> list[Path]:
        return [within(path, context.workspace.root) for path in self.tests]

    def settings(self) -> dict[str, Any]:
        """What decides which images are dropped; the test images are identified by their files."""
        return {"threshold": self.threshold, "whole_groups": self.whole_groups}

    def identity(self, context: Context) -> dict[str, Any]:
        """Names, sizes and times of the test images."""
        made = self._made(context)
        folders = {test: within(test, context.workspace.root) for test in self.tests if test not in made}
        return {"tests": {test: listing(path) for test, path in folders.items()}, "made": made}

    def _made(self, context: Context) -> list[str]:
        """Folders that the scenes stage makes: a function of its settings, and maybe not there yet."""
        return [test for test in self.tests if "scenes" in context.stages and test.startswith("workspace:scenes/")]

    def run(self, context: Context) -> dict[str, Any]:
        """Writes leak_similarity, leaks_from, leaks."""
        tests = self._embed_tests(context)
        context.session.barrier()
        return context.session.on_zero(lambda: self._compare(context, tests))

    def _embed_tests(self, context: Context) -> Workspace:
        """The test images, embedded by the copy descriptor, in a small workspace of their own."""
        space = Workspace(context.workspace.stage_folder(self.name) / "tests")

        def index() -> None:
            roots = {f"test-{number}": path.resolve() for number, path in enumerate(self._folders(context))}
            tables = [index_pool(path, root=name) for name, path in roots.items()]
            schema = tables[0].schema.remove_metadata()
            space.write_index(pa.concat_tables([table.cast(schema) for table in tables]), roots)
            (space.index_folder / "stage.json").write_text("{}")

        context.session.on_zero(index)
        embed, ingest = context.stages["embed"], context.stages["ingest"]
        assert isinstance(embed, Embed) and isinstance(ingest, Ingest)
        reader = ImageReader(space.index, space.roots, ingest.limits)
        keys = space.index["key"].combine_chunks()
        loop = Loop(embed.chunk_rows, self.batch_size, embed.num_workers)
        look_at_rows(context, reader, "leakage", space.stage_folder("ingest"), keys, loop)
        context.session.on_zero(lambda: (space.stage_folder("ingest") / "stage.json").write_text("{}"))
        readable = np.flatnonzero(space.rows_where("ingest", "readable"))
        if not len(readable):
            raise ValueError(f"curation.leakage.tests: no image of {', '.join(self.tests)} can be decoded")
        embed_rows(
            context, {"copy": embed.copy.load()}, reader, readable, self.name, space.stage_folder("embed"), keys, loop
        )
        context.session.on_zero(lambda: (space.stage_folder("embed") / "stage.json").write_text("{}"))
        return space

    def _compare(self, context: Context, tests: Workspace) -> dict[str, Any]:
        rows, stored = context.workspace.embeddings("embed", "copy")
        kept = np.isin(rows, alive(context, "retrieve"), assume_unique=True)
        rows, pool = rows[kept], stored[kept]
        test_rows, test = tests.embeddings("embed", "copy")
        similarity, closest = max_similarity(pool, test[:])
        folders = {name: path.name for name, path in tests.roots.items()}
        origin = _origins(tests.index, folders).take(pa.array(test_rows[closest]))
        leaks = similarity > self.threshold
        columns = {"leak_similarity": pa.array(similarity, pa.float32()), "leaks_from": origin, "leaks": leaks}
        keys = context.workspace.index["key"].combine_chunks()
        write_part(context.workspace.stage_folder(self.name), 0, rows, keys, columns, {})
        skipped = tests.index.num_rows - len(test_rows)
        note = f"; {skipped} test images could not be read" if skipped else ""
        summary = f"{int(leaks.sum())} of {len(rows)} images leak from {len(test_rows)} test images{note}"
        return {"rows": len(rows), "summary": summary, "tests": list(self.tests), "test_images": len(test_rows),
                "unreadable_tests": skipped}  # fmt: skip


def _origins(index: pa.Table, folders: dict[str, str]) -> pa.Array:
    """FOLDER/KEY of every test image."""
    places = pc.index_in(index["root"].combine_chunks(), value_set=pa.array(list(folders)))
    names = pa.array(list(folders.values())).take(places)
    return pc.binary_join_element_wise(names, index["key"].combine_chunks(), "/")
