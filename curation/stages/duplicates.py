"""Near-duplicates: one image of every group of copies stays."""

import hashlib
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.duplicate_graph import LIST, find_groups
from curation.duplicates import NoDirection, choose_representatives
from curation.embeddings import Embeddings
from curation.searching.faiss_index import Approximate
from curation.stage import Context, Stage, plain
from curation.stages.rows import alive, whole_groups
from curation.workspace import result_print, write_part
from datamodules.files import fingerprint


@dataclass(frozen=True)
class Duplicates(Stage):
    """Keeps one image of every near-duplicate group (paper section 3.3).

    Args:
        threshold: Images with a higher cosine similarity are copies of each other (paper: 0.6).
        k: Look only at each image's k nearest neighbours (paper: 64); null compares all pairs, exactly.
        keep: Which image of a group stays: draw (the paper: one at random, by a hash of seed and key), largest (most
            pixels, then draw) or real_first (a real one before a generated one, then draw).
        approximate: When and how a large pool is searched by an index instead of exactly.
    """

    name: ClassVar[str] = "duplicates"
    reads: ClassVar[tuple[str, ...]] = ("identical", "embed", "retrieve", "leakage")
    keeps: ClassVar[tuple[str, ...]] = ("graph-*",)
    draws: ClassVar[bool] = True
    threshold: float = 0.6
    k: int | None = None
    keep: Literal["draw", "largest", "real_first"] = "draw"
    approximate: Approximate = field(default_factory=lambda: Approximate(sample=2048))

    def identity(self, context: Context) -> dict[str, Any]:
        """Whether a leak takes its group with it, which the leakage gate's setting says."""
        return {"whole_groups": True} if whole_groups(context) else {}

    def check(self, context: Context) -> None:
        """The threshold must be a cosine, and k positive."""
        if not 0 < self.threshold < 1:
            raise ValueError(f"curation.duplicates.threshold must be a cosine in (0, 1), got {self.threshold}")
        if self.k is not None and self.k < 1:
            raise ValueError(f"curation.duplicates.k must be at least 1, got {self.k}; `k: null` compares all pairs")
        self.approximate.check("curation.duplicates.approximate")

    def run(self, context: Context) -> dict[str, Any]:
        """Writes duplicate_group, duplicate_of and, where the leakage gate wants whole groups, leaks_with_group."""
        rows, stored = context.workspace.embeddings("embed", "copy")
        kept = np.isin(rows, alive(context, "retrieve"), assume_unique=True)
        rows, vectors = rows[kept], stored.take(kept)
        folder = context.workspace.stage_folder(self.name) / f"graph-{self._graph_print(context, rows, vectors)}"
        try:
            groups, how = find_groups(
                context.session, folder, vectors, self.threshold, self.k, self.approximate, self.name
            )
        except NoDirection as error:
            raise _damaged(context, int(rows[error.row])) from None
        return context.session.on_zero(lambda: self._write(context, folder, rows, groups, how))

    def _graph_print(self, context: Context, rows: np.ndarray, vectors: Embeddings) -> str:
        """What the graph is made from: another choice of representatives does not search it again."""
        record = context.workspace.stage_record("embed")
        made_from = result_print(record) if record else None
        chosen = hashlib.sha256(np.ascontiguousarray(rows, "<i8").tobytes()).hexdigest()
        return fingerprint([made_from, chosen, vectors.shape, self.threshold, self.k, plain(self.approximate)])

    def _write(
        self, context: Context, folder: Path, rows: np.ndarray, groups: np.ndarray, how: dict[str, Any]
    ) -> dict[str, Any]:
        workspace, keys = context.workspace, context.workspace.index["key"].combine_chunks()
        own = keys.take(pa.array(rows))
        # Leaks are out before the draw, else a leaking representative would take its clean copies with it.
        clean = np.isin(rows, alive(context, "retrieve", "leakage"), assume_unique=True)
        tainted = np.zeros(len(rows), bool)
        if whole_groups(context):
            tainted[groups[~clean]] = True
            tainted = tainted[groups]
        eligible = clean & ~tainted
        chosen = choose_representatives(groups, own, eligible, context.seed, self._worse(context, rows))
        # Files with the same bytes were not compared: they are in the group of the one that stays.
        extra, host = _identical(context, rows, own)
        every, place = np.concatenate([rows, extra]), np.concatenate([np.arange(len(rows)), host])
        order = np.argsort(every)
        every, place = every[order], place[order]
        smallest = np.full(len(rows), len(keys), np.int64)
        np.minimum.at(smallest, groups[place], every)
        target = np.where(chosen >= 0, rows[chosen], -1)[place] if len(rows) else every
        copy = (target >= 0) & (target != every)
        columns = {"duplicate_group": smallest[groups[place]],
                   "duplicate_of": keys.take(pa.array(np.where(copy, target, 0), mask=~copy))}  # fmt: skip
        if whole_groups(context):
            columns["leaks_with_group"] = tainted[place]
        write_part(workspace.stage_folder(self.name), 0, every, keys, columns, {})
        for path in workspace.stage_folder(self.name).glob("graph-*"):
            if path != folder:
                shutil.rmtree(path)
        dropped = int((eligible & (chosen != np.arange(len(rows)))).sum())
        counts = {"dropped": dropped, "leaks_with_group": int((clean & tainted).sum()), **how}
        return self._told(np.bincount(groups[place]), np.bincount(groups), len(rows), counts)

    def _worse(self, context: Context, rows: np.ndarray) -> np.ndarray | None:
        """A number for each row, smallest for the images that come into the draw."""
        if self.keep == "real_first":
            return pc.equal(context.workspace.index["source"], "synthetic").to_numpy()[rows].astype(np.int64)
        if self.keep == "largest":
            seen = context.workspace.columns("ingest", ["width", "height"])
            pixels = np.zeros(context.workspace.index.num_rows, np.int64)
            sides = (pc.fill_null(seen[side], 0).to_numpy().astype(np.int64) for side in ("width", "height"))
            pixels[seen["row"].to_numpy()] = np.multiply(*sides)
            return -pixels[rows]
        return None

    def _told(self, sizes: np.ndarray, compared: np.ndarray, rows: int, counts: dict[str, Any]) -> dict[str, Any]:
        """The result. sizes: of the groups, with identical files; compared: without them."""
        many, k = int((sizes > 1).sum()), self.k or LIST
        larger = int((compared > k).sum())
        summary = f"{counts['dropped']} of {rows} images dropped, in {many} groups of copies"
        if counts["leaks_with_group"]:
            summary += f"; {counts['leaks_with_group']} leak with their group"
        if larger:
            summary += f"; {larger} groups have more than {k} images"
            if self.k is not None:
                summary += f", which lists of {k} neighbours may cut apart"
            else:
                summary += f", the largest {int(compared.max())}: chains of alike images, where the threshold is low"
        if counts.get("index"):
            found = counts["recall"]
            share = "no pair in the sample" if found is None else f"which finds {100 * found:.1f} % of the pairs"
            summary += f" (by {counts['index']}, {share})"
        return {"rows": rows, "groups": many, "largest": int(sizes.max(initial=0)), "k": k, "larger_than_k": larger,
                "sizes": _histogram(sizes), **counts, "summary": summary}  # fmt: skip


def _identical(context: Context, rows: np.ndarray, own: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(rows int64 [n] of the files with the bytes of one of the given rows, place int64 [n] of that one)."""
    if "identical" not in context.stages:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    table = context.workspace.columns("identical", ["identical_to"])
    table = table.filter(pc.is_valid(table["identical_to"]))
    names = table["identical_to"].combine_chunks().dictionary_encode()
    places = np.full(len(names.dictionary), -1, np.int64)
    found = pc.index_in(own, value_set=names.dictionary)
    there = np.flatnonzero(found.is_valid().to_numpy(zero_copy_only=False))
    places[found.drop_null().to_numpy()] = there
    host = places[names.indices.to_numpy()]
    return table["row"].to_numpy()[host >= 0], host[host >= 0]


def _histogram(sizes: np.ndarray) -> dict[str, int]:
    """How many groups there are of 2, 3-4, 5-8, ... images."""
    powers = np.ceil(np.log2(np.maximum(sizes[sizes > 1], 2))).astype(int)
    names = {
        power: "2" if power == 1 else f"{2 ** (power - 1) + 1}-{2**power}" for power in sorted(set(powers.tolist()))
    }
    return {name: int((powers == power).sum()) for power, name in names.items()}


def _damaged(context: Context, row: int) -> ValueError:
    key = context.workspace.index["key"][row].as_py()
    return ValueError(
        f"the copy embedding of {key} (row {row}) that the stage 'embed' stored holds NaN or infinite values: delete "
        f"{context.workspace.stage_folder('embed')} and run again, with curation.precision 32-true if it was another, "
        "or with another curation.embed.copy.model"
    )
