"""The leakage gate: no image of the data set may be a copy of an evaluation image."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from curation.embeddings import Embeddings
from curation.evaluation_sets import check_set, identify_set, named_sets
from curation.leakage import NearestTests, NotFinite, blocks
from curation.progress import Progress
from curation.screening import write_certificate
from curation.stage import Context, Stage, plain, runtime
from curation.stages.embed import Embed
from curation.stages.evaluation_images import embed_sets, embedded
from curation.stages.rows import alive
from curation.stages.score_normalisation import ScoreNormalisation
from curation.workspace import Workspace, read_parts, write_part
from datamodules.datasets.names import placed


@dataclass(frozen=True)
class Leakage(Stage):
    """Drops images that are too similar to a test image (paper section 3.3; exact maximum over all test images).

    Args:
        tests: Test images of every evaluation data set: folders, shards, CSVs with a column `path`, or data sets by
            name as evaluations have them (food-101:DIR?split=test); one, a list, or a mapping from names (for the
            certificate) to them. `workspace:` begins a path in the workspace.
        threshold: Images with a higher cosine similarity to any test image are dropped (paper: 0.45).
        whole_groups: Drops, with an image that leaks, the whole group of near-duplicates that it is in: a copy of a
            copy of a test image may lie just below the threshold.
        score_normalisation: SSCD's, with a threshold of its own; null compares cosines (the paper).
        chunk_rows: Rows per output file.
        batch_size: Test images per batch.
    """

    name: ClassVar[str] = "leakage"
    reads: ClassVar[tuple[str, ...]] = ("embed", "retrieve")
    tests: str | list[str] | dict[str, str] = field(default_factory=list)
    threshold: float = 0.45
    whole_groups: bool = False
    score_normalisation: ScoreNormalisation | None = None
    chunk_rows: int = 65_536
    batch_size: int = runtime(64)

    def check(self, context: Context) -> None:
        """The folders must be there and hold images, and the threshold be a cosine."""
        if not -1 <= self.threshold <= 1:
            raise ValueError(f"curation.leakage.threshold must be a cosine in [-1, 1], got {self.threshold}")
        if not self.tests:
            raise ValueError("curation.leakage.tests names no folder; give the evaluation images, or `leakage: null`")
        if self.whole_groups and "duplicates" not in context.stages:
            raise ValueError(
                "curation.leakage.whole_groups drops groups of near-duplicates, which curation.duplicates finds, but "
                "that is null; set curation.leakage.whole_groups to false"
            )
        made = self.made(context)
        for name, path in self.folders(context.workspace.root).items():
            if name not in made:
                check_set(name, path)
        if self.score_normalisation is not None:
            self.score_normalisation.check(context.workspace.root)

    def folders(self, workspace: Path) -> dict[str, str]:
        """Name of each test set -> where it is, or the data set that it is."""
        return {name: placed(path, workspace) for name, path in named_sets(self.tests).items()}

    def settings(self) -> dict[str, Any]:
        """What decides which images are dropped; the test images are identified by their files."""
        return {"threshold": self.threshold, "whole_groups": self.whole_groups,
                "score_normalisation": self.score_normalisation, "chunk_rows": self.chunk_rows}  # fmt: skip

    def identity(self, context: Context) -> dict[str, Any]:
        """Names, sizes and times of the test images, and of the background's."""
        made, root = self.made(context), context.workspace.root
        folders = self.folders(root)
        parts: dict[str, Any] = {"tests": {n: identify_set(path) for n, path in folders.items() if n not in made}}
        normalisation = self.score_normalisation
        if normalisation is not None:
            own = normalisation.background
            parts["background"] = context.seed if own is None else identify_set(placed(own, root))
        return {**parts, "made": made}

    def made(self, context: Context) -> dict[str, str]:
        """Sets that the scenes stage makes: a function of its settings, and maybe not there yet."""
        sets = named_sets(self.tests) if "scenes" in context.stages else {}
        return {name: path for name, path in sets.items() if path.startswith("workspace:scenes/")}

    def run(self, context: Context) -> dict[str, Any]:
        """Writes leak_similarity, leaks_from, leaks; with score_normalisation also leak_score, leak_score_from."""
        session, folder = context.session, context.workspace.stage_folder(self.name)
        tests = embed_sets(context, folder / "tests", self.folders(context.workspace.root), self.batch_size)
        names, vectors = embedded(tests)
        rows, stored = context.workspace.embeddings("embed", "copy")
        kept = np.isin(rows, alive(context, "retrieve"), assume_unique=True)
        rows, pool = rows[kept], stored.take(kept)
        device = session.trainer().strategy.root_device
        searches = {"leak_similarity": NearestTests(vectors, device=device)}
        if self.score_normalisation is not None:
            offsets = self.score_normalisation.offsets(
                context, vectors, rows, pool, self.threshold, self.batch_size, device
            )
            searches["leak_score"] = NearestTests(vectors, device=device, offsets=offsets)
        numbers = rows // self.chunk_rows
        todo = session.on_zero(
            lambda: [n for n in (np.unique(numbers).tolist() or [0]) if not (folder / f"part-{n:05d}.parquet").exists()]
        )
        done = len(rows) - int(np.isin(numbers, todo).sum())
        bar = Progress(self.name, len(rows), done, "img", session.is_zero, session.world_size)
        keys = context.workspace.index["key"].combine_chunks()
        for n in todo[session.rank :: session.world_size]:
            chunk = numbers == n
            columns = self._screen(context, searches, rows[chunk], pool.take(chunk), names, bar)
            write_part(folder, n, rows[chunk], keys, columns, {})
        bar.close()
        session.barrier()
        return session.on_zero(lambda: self._conclude(context, tests, len(rows), len(names)))

    def _screen(
        self, context: Context, searches: dict[str, NearestTests], rows: np.ndarray, pool: Embeddings, names: pa.Array,
        bar: Progress,
    ) -> dict[str, Any]:  # fmt: skip
        """The columns of one chunk."""
        values = {name: np.empty(len(rows), np.float32) for name in searches}
        closest = {name: np.empty(len(rows), np.int64) for name in searches}
        try:
            for first, block in blocks(pool, 1024, "embeddings"):
                part = slice(first, first + len(block))
                for name, search in searches.items():
                    values[name][part], closest[name][part] = search.find(block)
                bar.step(len(block))
        except NotFinite as error:
            row = int(rows[error.row])
            key = context.workspace.index["key"][row]
            raise ValueError(
                f"leakage: the embedding of {key} (row {row}) that the stage `embed` stored holds NaN or infinite "
                f"values; delete {context.workspace.stage_folder('embed')} and run again, with curation.precision "
                "32-true if it was another"
            ) from error
        columns: dict[str, Any] = {"leak_similarity": values["leak_similarity"]}
        columns["leaks_from"] = names.take(pa.array(closest["leak_similarity"]))
        if self.score_normalisation is None:
            return {**columns, "leaks": values["leak_similarity"] > np.float32(self.threshold)}
        columns["leak_score"] = values["leak_score"]
        columns["leak_score_from"] = names.take(pa.array(closest["leak_score"]))
        return {**columns, "leaks": values["leak_score"] > np.float32(self.score_normalisation.threshold)}

    def _conclude(self, context: Context, tests: Workspace, count: int, test_images: int) -> dict[str, Any]:
        """Writes the certificate and says what was found."""
        folder, embed = context.workspace.stage_folder(self.name), context.stages["embed"]
        assert isinstance(embed, Embed)
        paths = named_sets(self.tests)
        settings = {
            "threshold": self.threshold,
            "whole_groups": self.whole_groups,
            "score_normalisation": plain(self.score_normalisation),
            "descriptor": embed.copy.identity(),
        }
        write_certificate(folder, tests, paths, settings)
        leaks = int(np.sum(read_parts(folder, ["leaks"])["leaks"].to_numpy(zero_copy_only=False)))
        skipped = tests.index.num_rows - test_images
        note = f"; {skipped} test images could not be read" if skipped else ""
        return {"rows": count, "summary": f"{leaks} of {count} images leak from {test_images} test images{note}",
                "tests": list(paths.values()), "test_images": test_images, "unreadable_tests": skipped}  # fmt: skip
