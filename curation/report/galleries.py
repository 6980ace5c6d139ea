"""The sections of pictures: what was kept, and for each stage what it dropped and why."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from curation.images import ImageReader
from curation.report.view import LIMITS, Tile, View, read_image, short
from curation.text import remove_words
from curation.workspace import Workspace
from datamodules.decoding import RefusedImage, decode_rgb

REFUSALS = {
    "truncated": "the file ends too early",
    "empty": "no bytes",
    "not_an_image": "no decoder knows the bytes",
    "too_large": "more pixels or bytes than the limit",
    "too_small": "a side below the limit",
    "extreme_aspect": "far longer than wide",
    "flat_colour": "one colour only",
    "failed_to_download": "never arrived",
}
TAKEN_OUT = {"blur": "blurred", "mean": "filled"}


@dataclass(frozen=True)
class Strip:
    """A row of pictures with a heading; `keys` where there is nothing to see."""

    title: str
    note: str = ""
    tiles: list[Tile] = field(default_factory=list)
    mark: str = ""
    keys: str = ""


def kept(view: View) -> list[Tile]:
    """A draw of the data set."""
    rows = view.draw(np.flatnonzero(view.kept), view.settings.samples)
    return [view.tile(int(row), view.value("concept", int(row)) or "") for row in rows]


def unreadable(view: View) -> list[Strip]:
    """What ingest refused, by reason, most frequent first."""
    rows = np.flatnonzero(view.dropped("unreadable"))
    causes = [view.value("reason", int(row)) or "unknown" for row in rows]
    names, counts = np.unique(np.asarray(causes, dtype=str), return_counts=True)
    strips = []
    order = np.argsort(-counts, kind="stable")
    for place in order[: view.settings.reasons]:
        mine = rows[np.asarray(causes) == names[place]]
        shown = view.draw(mine, view.settings.per_reason)
        tiles = [tile for tile in view.tiles(shown) if tile.src]  # most of them cannot be shown: that is why
        keys = [] if tiles else [view.key(row) for row in shown] + ["…"] * (len(mine) > len(shown))
        title, note = str(names[place]).replace("_", " "), REFUSALS.get(str(names[place]), "")
        strips.append(Strip(title, note, tiles, f"{counts[place]:,}", ", ".join(keys)))
    rest = order[view.settings.reasons :]
    if len(rest):
        strips.append(Strip(f"{len(rest):,} other reasons", mark=f"{counts[rest].sum():,}"))
    return strips


def not_retrieved(view: View) -> list[Tile]:
    """A draw of the images that no concept found."""
    return view.tiles(view.draw(np.flatnonzero(view.dropped("not_retrieved")), view.settings.samples // 2))


@dataclass(frozen=True)
class Pair:
    """Two pictures side by side with one line below."""

    left: Tile
    right: Tile
    caption: str


def leaks(view: View) -> tuple[list[Pair], list[Pair]]:
    """Pairs (image of the pool, its closest test image): those dropped, and those just below the threshold."""
    normalised = "leak_score" in view.ledger.column_names
    value = view.numbers("leak_score" if normalised else "leak_similarity")
    dropped = np.flatnonzero(view.dropped("leak") & ~np.isnan(value))
    dropped = dropped[np.argsort(-value[dropped], kind="stable")]
    if len(dropped) > view.settings.pairs:  # from the surest to the most doubtful
        dropped = dropped[np.linspace(0, len(dropped) - 1, view.settings.pairs).round().astype(int)]
    seen = np.flatnonzero(~np.isnan(value) & ~view.dropped("leak"))
    close = seen[np.argsort(-value[seen], kind="stable")][: view.settings.pairs // 2]
    tests = TestImages(view)
    pairs = [[_leak_pair(view, tests, int(row), normalised) for row in rows] for rows in (dropped, close)]
    return pairs[0], pairs[1]


def _leak_pair(view: View, tests: "TestImages", row: int, normalised: bool) -> Pair:
    origin = view.value("leak_score_from", row) if normalised else None
    origin = str(origin or view.value("leaks_from", row) or "")
    test = Tile(view.encode(tests.rgb(origin)), short(origin), origin)
    caption = f"similarity {view.value('leak_similarity', row):.3f}"
    if normalised:
        caption = f"score {view.value('leak_score', row):.3f} · highest {caption}"
    if view.reasons[row] == "leak" and not view.value("leaks", row):
        caption += " · leaks with its group"
    return Pair(view.tile(row), test, caption)


class TestImages:
    """The test images by the name that `leaks_from` gives them: `<folder>/<path in it>`."""

    __test__ = False  # not a test class of pytest

    def __init__(self, view: View) -> None:
        record = view.records.get("leakage", {})
        self.folders = [Path(path) for path in (record.get("result") or {}).get("tests", [])]
        self.places: dict[str, int] = {}
        space = Workspace(view.space.stage_folder("leakage") / "tests")
        if space.stage_record("index") is None:
            return
        self.reader = ImageReader(space.index, space.roots, LIMITS)
        pairs = zip(space.index["root"].to_pylist(), space.index["key"].to_pylist(), strict=True)
        self.places = {f"{root}/{key}": row for row, (root, key) in enumerate(pairs)}

    def rgb(self, origin: str) -> np.ndarray | None:
        """The decoded test image, None where it cannot be reached."""
        if origin in self.places:
            return read_image(self.reader, self.places[origin])
        for folder in self.folders:
            path = folder.parent / origin
            if origin and path.is_file():
                try:
                    return decode_rgb(path.read_bytes(), LIMITS)
                except (RefusedImage, OSError):
                    return None
        return None


def fronts(view: View) -> list[Strip]:
    """Pictures of the first fronts, then those on both sides of the cut, and those that a quota leaves out."""
    front, rank = view.numbers("front"), view.numbers("removal_rank")
    ranked = np.flatnonzero(~np.isnan(rank))
    ranked = ranked[np.argsort(rank[ranked])]
    count, kept_rows = view.settings.per_group, view.kept
    strips = []
    for number in view.settings.fronts:
        rows = ranked[front[ranked] == number - 1]
        if not len(rows):
            continue
        stays = kept_rows[rows]
        mark = "kept" if stays.all() else "removed" if not stays.any() else "cut runs through it"
        noun = "image" if len(rows) == 1 else "images"
        strips.append(Strip(f"Front {number}", f"{len(rows):,} {noun}", view.tiles(rows[:count], "ood"), mark))
    before, after = ranked[view.dropped("selection")[ranked]], ranked[kept_rows[ranked]]
    over = ranked[view.dropped("quota")[ranked]]
    if len(before):
        if not strips:  # another method than fronts
            strips.append(Strip("First removed", "", view.tiles(before[:count], "ood"), "removed"))
        strips.append(Strip("Last removed", "just before the cut", view.tiles(before[-count:], "ood"), "removed"))
    if len(over):
        strips.append(Strip("Over the quota", f"{len(over):,} images", view.tiles(over[-count:], "ood"), "removed"))
    if len(after):
        strips.append(Strip("First kept", "just after the cut", view.tiles(after[:count], "ood"), "kept"))
        strips.append(Strip("Last of all", "deepest in the domain", view.tiles(after[-count:], "ood"), "kept"))
    return strips


def text(view: View) -> list[Pair]:
    """Images with text, before and after the blur; first those whose score leaned on their words the most."""
    area, gap = view.numbers("text_area"), view.numbers("text_gap")
    rows = np.flatnonzero(area > 0)
    order = -gap[rows] if not np.isnan(gap[rows]).all() else -area[rows]
    settings = view.records.get("text", {}).get("settings") or {}
    fill, strength = settings.get("fill", "blur"), float(settings.get("strength", 0.5))
    pairs = []
    for row in map(int, rows[np.argsort(order, kind="stable")][: view.settings.pairs]):
        rgb = view.rgb(row)
        if rgb is None:
            continue
        polygons = [np.asarray(flat, np.int32).reshape(-1, 2) for flat in view.value("text_boxes", row) or []]
        after = Tile(view.encode(remove_words(rgb, polygons, fill, strength)), f"words {TAKEN_OUT[fill]}", "")
        change = "" if np.isnan(gap[row]) else f" · score {gap[row]:+.3f}"
        pairs.append(Pair(view.tile(row), after, f"{100 * area[row]:.0f} % of the area{change}"))
    return pairs
