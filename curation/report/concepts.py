"""What the report says of the concepts: where they come from, what was found of each, and which labels they miss."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.report.figures import DROPPED, KEPT, drawing, to_svg
from curation.report.view import View

EXAMPLES = 10
FURTHEST = 12
FEWEST = 20


@dataclass(frozen=True)
class Origin:
    """Concepts of one origin: how many are in the bank, how many were refused, and a few of them."""

    name: str
    valid: int
    refused: int
    examples: str


def origins(view: View) -> list[Origin]:
    """The bank by origin; the general bank B' last."""
    path = view.space.stage_folder("concepts") / "bank.parquet"
    if not path.exists():
        return []
    bank = pq.read_table(path)
    names = pc.if_else(bank["general"], "general bank", bank["origin"])
    found = []
    for name in [*sorted(set(names.to_pylist()) - {"general bank"}), "general bank"]:
        rows = bank.filter(pc.equal(names, name))
        valid = rows.filter(rows["valid"])
        some = view.draw(np.arange(valid.num_rows), EXAMPLES)
        examples = ", ".join(valid["concept"].take(pa.array(some)).to_pylist())
        found.append(Origin(name, valid.num_rows, rows.num_rows - valid.num_rows, examples))
    return [origin for origin in found if origin.valid or origin.refused]


@dataclass(frozen=True)
class Fewest:
    """Concepts with the fewest kept images (name, images), and how many of all have none."""

    concepts: list[tuple[str, int]]
    without: int
    total: int


def images_per_concept(view: View) -> tuple[str, Fewest] | None:
    """Kept images of each concept, as a drawing, and the poorest ones; None where images carry no concepts."""
    path = view.space.stage_folder("concepts") / "bank.parquet"
    if "concepts" not in view.ledger.column_names or not path.exists():
        return None
    bank = pq.read_table(path, columns=["concept", "general", "valid"])
    names = bank.filter(pc.and_(bank["valid"], pc.invert(bank["general"])))["concept"].combine_chunks()
    lists = view.ledger["concepts"].filter(pa.array(view.kept)).combine_chunks()
    places = pc.index_in(pc.list_flatten(lists), value_set=names).drop_null().to_numpy()
    if not len(places):
        return None
    counts = np.bincount(places, minlength=len(names))
    order = np.argsort(counts, kind="stable")
    poorest = [(str(names[int(place)]), int(counts[place])) for place in order[:FEWEST]]
    with drawing(1) as (figure, axes):
        axes[0].plot(np.arange(1, len(counts) + 1), counts[order[::-1]], color=KEPT, lw=1.6)
        axes[0].set_title("Kept images of each concept, the richest first")
        axes[0].set_xlabel("concept")
        axes[0].set_ylabel("images")
        axes[0].set_ylim(bottom=0)
        return to_svg(figure), Fewest(poorest, int((counts == 0).sum()), len(counts))


@dataclass(frozen=True)
class Coverage:
    """How near the labels of one data set are to the bank: median distance, and the labels that are furthest."""

    data_set: str
    labels: int
    median: float
    furthest: list[tuple[str, str, float]]


def coverage(view: View) -> tuple[str, list[Coverage]] | None:
    """A histogram of the distance from each label to its nearest concept, and the furthest labels, per data set."""
    path = view.space.stage_folder("coverage") / "coverage.parquet"
    if view.space.current_record("coverage") is None or not path.exists():
        return None
    table = pq.read_table(path)
    sets = []
    with drawing(1) as (figure, axes):
        edges = np.histogram_bin_edges(
            table["distance"].to_numpy(), bins=40, range=(0, max(0.5, pc.max(table["distance"]).as_py()))
        )
        for number, name in enumerate(dict.fromkeys(table["data_set"].to_pylist())):
            rows = table.filter(pc.equal(table["data_set"], name))
            distance = rows["distance"].to_numpy()
            far = rows.take(pa.array(np.argsort(-distance, kind="stable")[:FURTHEST])).to_pylist()
            furthest = [(row["label"], row["concept"], row["distance"]) for row in far]
            sets.append(Coverage(name, len(distance), float(np.median(distance)), furthest))
            axes[0].hist(
                distance, bins=edges, alpha=0.55, label=name, color=(KEPT, DROPPED)[number] if number < 2 else None
            )
        axes[0].set_title("Cosine distance of each label to its nearest concept")
        axes[0].set_ylabel("labels")
        axes[0].legend(loc="upper right")
        return to_svg(figure), sets
