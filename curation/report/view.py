"""What the sections of the report read: the ledger, the stages' records and the pictures."""

import base64
import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from curation.images import ImageReader
from curation.ledger import STAGES, drop_reasons, read_ledger
from curation.provenance import stage_records
from curation.workspace import Workspace
from datamodules.decoding import ImageLimits, RefusedImage
from datamodules.files import read_json
from datamodules.store import StoreError

# Reasons that stages before the selection give.
EARLY = ("unreadable", "identical", "not_retrieved", "leak", "duplicate")
# For looking only: what ingest refused for its size or colour is shown all the same.
LIMITS = ImageLimits(min_side_px=1, max_aspect=1e6, flat_range=0)


@dataclass(frozen=True)
class ReportSettings:
    """How much the report shows; its size is bounded by these numbers, not by the number of images.

    Args:
        samples: Pictures of a gallery (kept, not retrieved).
        reasons: Reasons of refusal, the most frequent first; servers' messages can be many.
        per_reason: Pictures for each of them.
        pairs: Leaking pairs, and images with their text blurred.
        groups: Groups of copies, the largest first.
        runs: Training runs whose curves are drawn.
        per_group: Pictures of one group or front.
        fronts: Fronts that are shown, 1 = the first one removed (the paper's figure 10 shows these).
        side_px: Longest side of a picture as stored.
        quality: JPEG quality of the pictures.
        seed: Seed of the draws.
    """

    samples: int = 40
    reasons: int = 16
    per_reason: int = 8
    pairs: int = 12
    groups: int = 10
    runs: int = 12
    per_group: int = 10
    fronts: tuple[int, ...] = (1, 2, 5, 10, 50, 100)
    side_px: int = 144
    quality: int = 80
    seed: int = 0


@dataclass(frozen=True)
class Tile:
    """One picture: its data URI (None where it cannot be shown), the line below it, the tooltip, and its fate."""

    src: str | None
    caption: str
    tooltip: str
    mark: str = ""


class View:
    """A workspace as the report sees it."""

    def __init__(self, root: Path, settings: ReportSettings) -> None:
        self.space, self.settings = Workspace(root), settings
        self.ledger = read_ledger(self.space)
        self.records = stage_records(self.space)
        self.owner: dict[str, Any] = read_json(self.space.root / "workspace.json") or {}
        self.keys = self.ledger["key"].combine_chunks()
        self.reasons = self._reasons()
        self.reader = ImageReader(self.space.index, self.space.roots, LIMITS)

    def _reasons(self) -> np.ndarray:
        if "drop_reason" in self.ledger.column_names:
            return self.ledger["drop_reason"].to_numpy(zero_copy_only=False)
        return drop_reasons(self.ledger)

    @functools.cached_property
    def kept(self) -> np.ndarray:
        """Rows of the data set, bool [N]; none before selection."""
        if "keep" not in self.ledger.column_names:
            return np.zeros(self.ledger.num_rows, bool)
        return pc.fill_null(self.ledger["keep"], False).to_numpy(zero_copy_only=False).astype(bool)

    @functools.cached_property
    def synthetic(self) -> np.ndarray:
        """Rows that a generator made, bool [N]."""
        return pc.equal(self.ledger["source"], "synthetic").to_numpy(zero_copy_only=False).astype(bool)

    def dropped(self, reason: str) -> np.ndarray:
        """Rows that are out for a reason, bool [N]; `selection` is any of its own but its quotas and its sources."""
        if reason == "selection":
            known = np.isin(self._names, [*EARLY, "source", "quota", ""])
            return ~known
        return self._names == reason

    @functools.cached_property
    def _names(self) -> np.ndarray:
        return np.array([reason or "" for reason in self.reasons], dtype=str)

    def state(self, stage: str) -> str:
        """`done`, `left out` (by the configuration of the present selection) or `not run yet`."""
        select = self.records.get("select")
        scoring = stage in STAGES and stage != "select"
        if select is not None and scoring and stage not in select["print"]["reads"]:
            return "left out"
        return "done" if stage in self.records else "not run yet"

    def numbers(self, name: str) -> np.ndarray:
        """A column as float64 [N], NaN where a stage did not see the row (everywhere if there is no such column)."""
        if name not in self.ledger.column_names:
            return np.full(self.ledger.num_rows, np.nan)
        return pc.fill_null(pc.cast(self.ledger[name], pa.float64()), np.nan).to_numpy()

    def value(self, name: str, row: int) -> Any:
        """One value of the ledger, None where there is no such column."""
        return self.ledger[name][int(row)].as_py() if name in self.ledger.column_names else None

    def key(self, row: int) -> str:
        """The key of a row."""
        return str(self.keys[int(row)].as_py())

    def draw(self, rows: np.ndarray, count: int) -> np.ndarray:
        """Up to `count` of the rows, the same ones at every call."""
        picked = np.random.default_rng(self.settings.seed).permutation(len(rows))[:count]
        return np.asarray(rows)[np.sort(picked)]

    def rgb(self, row: int) -> np.ndarray | None:
        """The decoded image, None where it is gone or broken."""
        return read_image(self.reader, row)

    def tile(self, row: int, caption: str = "", mark: str = "") -> Tile:
        """The picture of a row."""
        rgb = self.rgb(row)
        facts = [self.key(row)]
        for name in ("source", "concept", "ood", "ood_general", "text_gap", "leak_similarity", "drop_reason"):
            value = self.value(name, row)
            if value is not None:
                facts.append(f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}")
        return Tile(self.encode(rgb), caption or short(self.key(row)), "\n".join(facts), mark)

    def tiles(self, rows: Sequence[int] | np.ndarray, column: str | None = None, mark: str = "") -> list[Tile]:
        """The pictures of rows, each with its value of a column below it."""
        values = self.numbers(column) if column else None
        texts = ["" if values is None or np.isnan(values[row]) else f"{values[row]:.3f}" for row in rows]
        return [self.tile(int(row), text, mark) for row, text in zip(rows, texts, strict=True)]

    def encode(self, rgb: np.ndarray | None) -> str | None:
        """A small JPEG of an image as a data URI."""
        if rgb is None:
            return None
        image = Image.fromarray(rgb)
        image.thumbnail((self.settings.side_px, self.settings.side_px), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=self.settings.quality, optimize=True)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def read_image(reader: ImageReader, row: int) -> np.ndarray | None:
    """The decoded image of a row, None where it is gone or broken: a report is still a report without it."""
    try:
        return reader.rgb(row)
    except (RefusedImage, StoreError, OSError):
        return None


def short(text: str, length: int = 22) -> str:
    """A text with its middle left out where it is long."""
    return text if len(text) <= length else f"{text[: length // 2 - 1]}…{text[-(length // 2) :]}"
