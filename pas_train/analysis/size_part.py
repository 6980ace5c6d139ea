"""The part of an analysis on sizes, sources and the balance of classes."""

from collections.abc import Iterable
from typing import Any

from pas_train.analysis.balance import RARE, class_counts, set_figures
from pas_train.analysis.page import Section, Table, percent
from pas_train.analysis.sets import NONE
from pas_train.analysis.study import Study


def add_sizes(study: Study) -> None:
    """Sizes, sources and SELECT's figures."""
    study.result["sets"] = figures = [set_figures(one) for one in study.sets]
    sizes = Table(
        ["Set", "Images", "Real", "Synthetic", "Classes or concepts", "Images without one"],
        [
            [one["name"], one["images"], one["real"], one["synthetic"],
             one["balance"]["all"]["classes"] if one["kind"] else None, one["without_class"]]
            for one in figures
        ],
    )  # fmt: skip
    rows = [
        [one["name"], source, figure["present"], percent(figure["coverage"]), figure[f"lt_{RARE}"],
         percent(figure[f"lt_{RARE}_share"]), percent(figure["ls_5pct"]), round(figure["balance"], 3)]
        for one in figures
        for source, figure in one.get("balance", {}).items()
    ]  # fmt: skip
    heads = ["Set", "Source", "Present", "Coverage", f"LT@{RARE}", "of all", "LS@5pct", "Balance"]
    note = (
        f"Coverage: classes or concepts with an image. LT@{RARE}: with fewer than {RARE} images. LS@5pct: share of "
        "the images that the largest 5 % hold. Balance: entropy over that of equal shares. An image counts for its "
        "best concept."
    )
    parts = [sizes, *([Table(heads, rows, "Balance of classes", note)] if rows else [])]
    study.sections.append(Section("Sizes and sources", "", list(parts)))
    study.write_csv("sets.csv", heads, rows)
    study.write_csv("classes.csv", ["set", "class", "images", "real", "synthetic"], _class_rows(study))


def _class_rows(study: Study) -> Iterable[list[Any]]:
    for one in study.sets:
        counts = [
            class_counts(one.labels[mask], len(one.classes))
            for mask in (one.labels >= NONE, ~one.synthetic, one.synthetic)
        ]
        for place, name in enumerate(one.classes):
            yield [one.name, name, *(int(count[place]) for count in counts)]
