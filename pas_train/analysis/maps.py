"""The part of an analysis that is a map: points, densities, the picture and what two sets share."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pas_train.analysis.densities import Points, draw_map, overlap, umap_together
from pas_train.analysis.page import Picture, Section, Table
from pas_train.analysis.study import Study


def add_map(
    study: Study, what: str, points: Sequence[tuple[str, np.ndarray]], text: str,
    found: dict[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> None:  # fmt: skip
    """One map of the points [n, D] of all sets. what: "images" or "texts"; text: what they are; found: rows by set."""
    if study.options.no_maps:
        return
    total = sum(len(vectors) for _, vectors in points)
    if total < 5:
        study.leave_out(f"map of {what}", f"{total} points make none")
        return
    study.say("map", f"{total:,} {what}")
    names, vectors = [name for name, _ in points], [values for _, values in points]
    placed = umap_together(names, vectors, study.options.seed)
    paths = study.out / f"{what}-map.png", study.out / f"{what}-map.svg"
    draw_map(placed, what, *paths)
    shared = _overlaps(placed)
    study.result[f"{what}_map"] = {"points": {one.name: len(one.places) for one in placed}, "overlap": shared}
    rows = [
        [one.name, int(found[one.name][0][place]) if found else place, round(float(x), 4), round(float(y), 4)]
        for one in placed
        for place, (x, y) in enumerate(one.places)
    ]
    study.write_csv(f"{what}-map.csv", ["set", "row", "x", "y"], rows)
    parts: list[Table | Picture] = [Picture(paths[0], f"Density of the {what} of each set on one map")]
    if shared:
        pairs = [[first, second, value] for first, second, value in shared]
        parts.append(Table(["Set", "and", "Shared density"], pairs, note="0: apart; 1: alike."))
    note = (
        f"{text} One UMAP of all together (cosine, 15 neighbours, seed {study.options.seed}); contours hold 10 to "
        "90 % of a set's density. Distances far apart on such a map mean little."
    )
    study.sections.append(Section(f"Map of {what}", note, parts))


def _overlaps(placed: Sequence[Points]) -> list[list[Any]]:
    found = []
    for place, first in enumerate(placed):
        for second in placed[place + 1 :]:
            value = overlap(first, second)
            if value is not None:
                found.append([first.name, second.name, round(value, 3)])
    return found
