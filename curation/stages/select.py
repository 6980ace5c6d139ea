"""What stays: an order of removal, knees or a size, quotas, and the manifest. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from curation.card import cut_from, write_card
from curation.choosing import admission, choose, describe, quota_columns, size_within
from curation.ledger import SOURCES, drop_reasons, of_other_source, read_ledger
from curation.manifest import SCORES, write_manifest
from curation.quotas import SLACK, Quotas
from curation.selection import knee_cut
from curation.selectors import Candidates, Pareto, Ranking, Selector
from curation.stage import Context, Stage
from curation.workspace import Workspace, write_part


@dataclass(frozen=True)
class Select(Stage):
    """Removes the images that are furthest from the domain: a total order, cut at a knee or at a size (paper 3.3).

    Settings that a comparison switches off, one at a time: `scores`, `sources`, `share`.

    Args:
        method: What orders the images: Pareto (null), or a baseline to compare with: Random, ClipScore, OneScore,
            BalancedClusters or SemanticDeduplication.
        sensitivity: Kneedle's S; higher cuts later (open in the paper; 1 is kneed's default).
        knee: first (kneed's), or pronounced: the deepest knee of the monotone curve, which removes more where the
            scores stay high before they fall.
        target_size: Images to keep; null cuts at the largest of the knees, or at the method's threshold.
        share: Keeps only this share, in (0, 1], of the images that would be kept: the last ones in the order of
            removal, so that smaller shares are subsets of larger ones. Null keeps all.
        scores: Which of ood, ood_general and text_gap the Pareto fronts are made of.
        sources: Which of real and synthetic images may be kept.
        per_concept_max: Most images of which one concept is the closest; null has no limit.
        synthetic_share: Largest share of synthetic images, in [0, 1]; null has no limit.
    """

    name: ClassVar[str] = "select"
    # Stored embeddings, which some methods read, change only where `ood`, which reads them too, changes.
    reads: ClassVar[tuple[str, ...]] = ("ingest", "identical", "retrieve", "leakage", "duplicates", "text", "ood")
    shared: ClassVar[bool] = False  # the manifest is written outside the stage's folder
    method: Selector | None = None
    sensitivity: float = 1.0
    knee: Literal["first", "pronounced"] = "first"
    target_size: int | None = None
    share: float | None = None
    scores: list[str] = field(default_factory=lambda: list(SCORES))
    sources: list[str] = field(default_factory=lambda: list(SOURCES))
    per_concept_max: int | None = None
    synthetic_share: float | None = None

    @property
    def quotas(self) -> Quotas:
        """The limits on top of the order."""
        return Quotas(self.per_concept_max, self.synthetic_share)

    @property
    def selector(self) -> Selector:
        """The method, the paper's where none is given."""
        return self.method or Pareto(self.scores)

    def check(self, context: Context) -> None:
        """Settings must make sense, and something must say how many images go."""
        if self.sensitivity < 0:
            raise ValueError(f"curation.select.sensitivity must not be negative, got {self.sensitivity}")
        if self.target_size is not None and self.target_size < 1:
            raise ValueError(f"curation.select.target_size must be at least 1, got {self.target_size}")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"curation.select.share must be above 0 and at most 1, or null, got {self.share}")
        self.quotas.check("curation.select")
        self._check_sources()
        self.selector.check("curation.select" if self.method is None else "curation.select.method")
        if self.method is not None and set(self.scores) != set(SCORES):
            raise ValueError(
                f"curation.select.scores is [{', '.join(self.scores)}], but curation.select.method is "
                f"{type(self.method).__name__}; set curation.select.method to null, whose fronts are made of them"
            )
        embed = context.stages.get("embed")
        if embed and getattr(self.selector, "embedding", None) == "clipn" and getattr(embed, "clipn", None) is None:
            raise ValueError(
                "curation.select.method.embedding is clipn, but curation.embed.clipn is null: take image or copy, or "
                "give that encoder"
            )
        if self.target_size is None and not self.selector.cuts:
            threshold = " or curation.select.method.threshold" if hasattr(self.selector, "threshold") else ""
            raise ValueError(
                f"curation.select.method {type(self.selector).__name__} only orders the images: set "
                f"curation.select.target_size{threshold} to say how many stay"
            )

    def _check_sources(self) -> None:
        wrong = [name for name in self.sources if name not in SOURCES]
        if wrong or not self.sources:
            raise ValueError(f"curation.select.sources is [{', '.join(self.sources)}]; list real, synthetic, or both")
        if "real" not in self.sources and self.synthetic_share is not None and self.synthetic_share < 1:
            raise ValueError(
                f"curation.select.sources is [synthetic], but curation.select.synthetic_share {self.synthetic_share} "
                "lets no data set be all synthetic; set it to null"
            )

    def intact(self, context: Context) -> bool:
        """The manifest may have been deleted to have it written anew."""
        return context.workspace.manifest().exists()

    def check_ready(self, context: Context) -> None:
        """So many images must be left, and some of the sources that may be kept."""
        few = set(self.sources) != set(SOURCES)
        if self.target_size is None and not few:
            return
        ledger = self._ledger(context)
        left = candidates_of(context.workspace, ledger, self.sources)
        if few and not len(left):
            others = len(candidates_of(context.workspace, ledger))
            raise ValueError(
                f"curation.select.sources is [{', '.join(self.sources)}], but none of the {others} images that are "
                "left is of it; choose the other source, or both"
            )
        if self.target_size is not None:
            most = self.quotas.most(*quota_columns(left, self.quotas)) if self.quotas else len(left)
            size_within(self.target_size, most, "curation.select.target_size", self.quotas)

    def _ledger(self, context: Context) -> pa.Table:
        return read_ledger(context.workspace, [name for name in self.reads if name in context.stages])

    def run(self, context: Context) -> dict[str, Any]:
        """Writes front, removal_rank, keep, drop_reason of every row, and dataset/full."""
        return context.session.on_zero(lambda: self._run(context.workspace, context))

    def _run(self, workspace: Workspace, context: Context) -> dict[str, Any]:
        ledger = self._ledger(context)
        left = candidates_of(workspace, ledger, self.sources)
        ranking = self.selector.rank(left)
        cut, knees = self._cut(ranking)
        admitted = admission(left, ranking.order, self.quotas)
        if self.target_size is not None:
            size_within(self.target_size, len(admitted), "curation.select.target_size", self.quotas)
        choice = choose(ranking.order, admitted, cut, self.target_size)
        whole = int(choice.keep.sum())
        if self.share is not None:
            choice = choose(ranking.order, admitted, cut, share_of(whole, self.share))
        keep = np.zeros(ledger.num_rows, bool)
        keep[left.rows] = choice.keep
        reasons = drop_reasons(ledger)
        left_out = of_other_source(ledger, reasons, self.sources)
        reasons[left_out] = "source"
        reasons[left.rows[~choice.keep]] = self.selector.kind
        reasons[left.rows[choice.over]] = "quota"
        columns = {
            **ranking_columns(left, ranking),
            "keep": pa.array(keep),
            "drop_reason": pa.array(reasons, pa.string()),
        }
        every = np.arange(ledger.num_rows)
        write_part(workspace.stage_folder(self.name), 0, every, ledger["key"].combine_chunks(), columns, {})
        for name, column in columns.items():
            ledger = ledger.append_column(name, pa.chunked_array([column]))
        more: dict[str, Any] = {"share": self.share, "sources": list(self.sources)}
        if ranking.fronts is not None:
            more |= {"sensitivity": self.sensitivity, "knee": self.knee}
        told = describe(self.selector, self.target_size, choice, self.quotas, None, **more)
        checksum = write_manifest(ledger, keep, workspace.dataset_folder(), workspace.roots, told)
        write_card(workspace, "full")
        others = {path.parent.name for path in (workspace.root / "dataset").glob("*/selection.json")}
        if earlier := sorted(others - set(cut_from(workspace, checksum))):
            context.say(
                f"{self.name:<10} cut from an earlier selection, and no subsets of this one: {', '.join(earlier)}"
            )
        over = f", {told['over_quota']} over the quotas" if self.quotas else ""
        why = "as out of domain" if ranking.fronts is not None else f"by {type(self.selector).__name__}"
        over += f", {int(left_out.sum())} of another source" if left_out.any() else ""
        over += f"; {100 * self.share:g} % of {whole}" if self.share is not None else ""
        return {
            "rows": ledger.num_rows, "knees": knees, "cut": choice.cut, "kept": told["images"],
            "over_quota": told["over_quota"], "target_size": self.target_size, "share": self.share,
            "whole": whole, "other_source": int(left_out.sum()), "manifest_sha256": checksum,
            "summary": f"{told['images']} images kept, {choice.cut} of {len(left)} removed {why}{over}",
        }  # fmt: skip

    def _cut(self, ranking: Ranking) -> tuple[int | None, list[int | None]]:
        """(images that go if no size is given, knees of the scores)."""
        if ranking.fronts is None or ranking.scores is None:
            return ranking.cut, [None] * len(SCORES)
        cut, found = knee_cut(ranking.scores, ranking.fronts, self.sensitivity, self.knee)
        used = getattr(self.selector, "scores", SCORES)
        knees = dict(zip([name for name in SCORES if name in used], found, strict=True))
        return cut, [knees.get(name) for name in SCORES]


def share_of(whole: int, share: float) -> int:
    """A share of so many images, rounded down, but one at least where there is any."""
    return min(whole, max(1, int(whole * share + SLACK)))


def candidates_of(workspace: Workspace, ledger: pa.Table, sources: Sequence[str] = SOURCES) -> Candidates:
    """The rows of the sources that no stage before the selection has dropped."""
    reasons = drop_reasons(ledger)
    left = np.equal(reasons, np.array(None)) & ~of_other_source(ledger, reasons, sources)
    return Candidates(workspace, ledger, np.flatnonzero(left))


def ranking_columns(candidates: Candidates, ranking: Ranking) -> dict[str, pa.Array]:
    """Columns of every row of the ledger: front int32 and removal_rank int64, null where the row has none."""
    front = np.full(candidates.ledger.num_rows, -1, np.int32)
    rank = np.full(candidates.ledger.num_rows, -1, np.int64)
    rank[candidates.rows[ranking.order]] = np.arange(len(candidates))
    if ranking.fronts is not None:
        front[candidates.rows] = ranking.fronts
    return {"front": pa.array(front, mask=front < 0), "removal_rank": pa.array(rank, mask=rank < 0)}
