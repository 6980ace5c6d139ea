"""Lexical coverage (PaS, section 4.1): from each label of a data set to the nearest class or concept of a set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pas_train import curated
from pas_train.analysis.drawing import colour, figure, save

SAME = 1e-6  # rounding, below which two texts are one
SHARES = (0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Covered:
    """labels: of one data set, as texts. nearest: of one bank, its closest entry to each. distance: float32 [L]."""

    labels_of: str
    bank_of: str
    labels: list[str]
    nearest: list[str]
    distance: np.ndarray

    def figures(self) -> dict[str, Any]:
        """Median distance, the share of labels that the bank holds, and those within some distances."""
        shares = {f"under_{limit}": float((self.distance < limit).mean()) for limit in SHARES}
        same = float((self.distance <= SAME).mean())
        return {"labels": len(self.labels), "median": float(np.median(self.distance)), "same": same, **shares}


def cover(
    labels: Mapping[str, Sequence[str]], banks: Mapping[str, Sequence[str]], vectors: Mapping[str, np.ndarray]
) -> list[Covered]:
    """Each label set against each bank. vectors: unit float32 [D] of every text."""
    found = []
    for label_set, texts in labels.items():
        rows = np.stack([vectors[text] for text in texts])
        for bank, entries in banks.items():
            places, distance = curated.nearest_concepts(rows, np.stack([vectors[entry] for entry in entries]))
            nearest = [entries[place] for place in places]
            distance = np.where([text == entry for text, entry in zip(texts, nearest, strict=True)], 0, distance)
            found.append(Covered(label_set, bank, list(texts), nearest, distance.astype(np.float32)))
    return found


def draw_coverage(covered: Sequence[Covered], banks: Sequence[str], *paths: Path) -> None:
    """Histograms of the distances, a panel for each label set, a colour for each bank."""
    sets = list(dict.fromkeys(one.labels_of for one in covered))
    columns = min(2, len(sets))
    rows = -(-len(sets) // columns)
    top = max(0.3, *(float(one.distance.max()) for one in covered))
    edges = np.linspace(0, top, 31)
    with figure(5.4 * columns, 2.5 * rows + 0.3) as drawn:
        axes = list(np.atleast_1d(drawn.subplots(rows, columns)).ravel())
        for axis, name in zip(axes, sets, strict=False):
            for one in covered:
                if one.labels_of == name:
                    shade = colour(list(banks).index(one.bank_of))
                    weights = np.full(len(one.distance), 100 / len(one.distance))
                    counts = np.histogram(one.distance, edges, weights=weights)[0]
                    axis.stairs(counts, edges, fill=True, alpha=0.25, color=shade)
                    axis.stairs(counts, edges, lw=1.4, color=shade)
            axis.set(title=name, xlim=(0, top), ylim=(0, None))
            axis.set_xlabel("cosine distance to the nearest")
            axis.set_ylabel("% of the labels")
        for place, bank in enumerate(banks):
            axes[0].plot([], [], color=colour(place), lw=2, label=bank)
        for axis in axes[len(sets) :]:
            axis.set_visible(False)
        drawn.legend(loc="outside lower center", ncols=min(4, len(banks)))
        save(drawn, *paths)
