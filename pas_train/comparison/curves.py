"""The chart of the online k-NN accuracy over the images seen."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pas_train.comparison.drawing import (
    NAMED,
    Chart,
    Drawing,
    add_key,
    colours_of,
    names_of,
    recipe_titles,
    size_ticks,
    tick,
    written,
)
from pas_train.comparison.placing import place_labels, spread
from pas_train.comparison.rows import Row

DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 2, 1.5, 2)))
LETTER = 0.08  # width in inches
FAR = 0.95  # of the longest line: whose end is at the right of its panel
UNEVEN = 8  # lines of so different lengths are drawn over a logarithmic axis
POINTS = 120  # of a line that labels keep off

Lines = list[tuple[Row, np.ndarray]]


def knn_over_images(rows: Sequence[Row]) -> Chart | None:
    """Online k-NN accuracy over the images seen: mean and range of the seeds. None where no training watched it.

    A panel for each recipe, and for each pair of bank and queries, as far as these are known: others do not compare.
    """
    tables = ((row, curve_of([draw.training.get("curve") or [] for draw in row.draws])) for row in rows)
    found = [(row, table) for row, table in tables if table is not None]
    if not found:
        return None
    recipe_of = recipe_titles([row for row, _ in found])
    panels: dict[str, Lines] = {}
    for row, table in found:
        watched = " on ".join(word for word in ("Online k-NN", _watched(row)) if word)
        panels.setdefault("\n".join(word for word in (watched, recipe_of(row)) if word), []).append((row, table))
    colours = colours_of(rows)
    names = {key: name for lines in panels.values() for key, name in names_of([row for row, _ in lines]).items()}
    crowded = max(map(len, panels.values())) > NAMED
    columns = min(2, len(panels))
    key = list(dict.fromkeys(names.values())) if crowded else []
    right = 0.12 if crowded else 0.2 + LETTER * max(map(len, names.values()))
    titles = 1 + max(title.count("\n") for title in panels)
    with Drawing(len(panels), columns, 3.7, titles, right=right, key=key) as (figure, axes):
        drawn: dict[str, Any] = {}
        for axis, (title, lines) in zip(axes, panels.items(), strict=True):
            drawn = _draw(axis, lines, colours, names) | drawn
            axis.set_title(title)
            axis.set_xlabel("images seen")
            axis.set_ylabel("top-1 accuracy, %")
        if crowded:
            add_key(figure, list(drawn.values()))
        else:
            _name(figure, list(zip(axes, panels.values(), strict=True)), colours, names)
        return written(figure)


def _watched(row: Row) -> str:
    """The labelled images of the online k-NN accuracy, in short."""
    known = row.first.result.watched
    name = known[1] if known is not None else ""
    # Each workspace has its own.
    domain = f" ({row.domain})" if name.startswith("workspace:") and row.domain else ""
    return name.partition("?")[0].removeprefix("workspace:") + domain


def curve_of(curves: Sequence[Sequence[dict[str, Any]]]) -> np.ndarray | None:
    """[points, 4]: images seen by all seeds, and the mean, smallest and largest of their accuracies in percent."""
    series = [np.array([(p["images_seen"], 100 * p["top1"]) for p in curve], float) for curve in curves if curve]
    if not series:
        return None
    seen = np.unique(np.concatenate([one[:, 0] for one in series]))
    seen = seen[(seen >= max(one[0, 0] for one in series)) & (seen <= min(one[-1, 0] for one in series))]
    if not len(seen):
        return None
    values = np.array([np.interp(seen, one[:, 0], one[:, 1]) for one in series])
    return np.stack([seen, values.mean(0), values.min(0), values.max(0)], axis=1)


def _draw(axis: Any, lines: Lines, colours: dict[str, str], names: dict[int, str]) -> dict[str, Any]:
    """The lines of a panel, and what a key shows of them."""
    from matplotlib.ticker import FuncFormatter

    drawn = {}
    used: dict[str, int] = {}  # lines of the same colour
    for row, table in lines:
        colour = colours[row.name]
        dash = DASHES[used.get(colour, 0) % len(DASHES)]
        used[colour] = used.get(colour, 0) + 1
        mark = {"marker": "o", "ms": 3} if len(table) < 12 else {}
        label = names[id(row)]
        (drawn[label],) = axis.plot(table[:, 0], table[:, 1], color=colour, lw=1.7, ls=dash, label=label, **mark)
        if (table[:, 3] > table[:, 2]).any():
            axis.fill_between(table[:, 0], table[:, 2], table[:, 3], color=colour, alpha=0.16, lw=0)
    ends = [float(table[-1, 0]) for _, table in lines]
    if max(ends) > UNEVEN * min(ends):
        low = min(float(table[table[:, 0] > 0][0, 0]) for _, table in lines)
        axis.set_xscale("log")
        axis.set_xlim(low / 1.1, max(ends) * 1.1)
        size_ticks(axis, low / 1.1, max(ends) * 1.1)
    else:
        axis.set_xlim(left=0)
        axis.xaxis.set_major_formatter(FuncFormatter(tick))
    axis.set_ylim(bottom=max(0.0, axis.get_ylim()[0]))
    return drawn


def _name(figure: Any, panels: Sequence[tuple[Any, Lines]], colours: dict[str, str], names: dict[int, str]) -> None:
    """Names of the lines: at the right of the panel for those that reach it, beside their ends for others."""
    for axis, lines in panels:
        low, high = axis.get_ylim()
        gap = 11 / (axis.get_window_extent().height / figure.dpi * 72) * (high - low)
        right = [(row, table) for row, table in lines if _reaches(table, lines)]
        for (row, table), y in zip(right, spread([float(t[-1, 1]) for _, t in right], gap, low, high), strict=True):
            axis.annotate(
                names[id(row)], (table[-1, 0], table[-1, 1]), (1.015, y), textcoords=axis.get_yaxis_transform(),
                va="center", fontsize=8, fontweight="bold", color=colours[row.name], annotation_clip=False,
                arrowprops={"arrowstyle": "-", "color": colours[row.name], "lw": 0.6, "shrinkA": 0, "shrinkB": 0},
            )  # fmt: skip
        labels = [
            (names[id(row)], colours[row.name], [(float(table[-1, 0]), float(table[-1, 1]), 2.0)])
            for row, table in lines
            if not _reaches(table, lines)
        ]
        if labels:
            place_labels(figure, axis, labels, [point for _, table in lines for point in _along(axis, table)])


def _reaches(table: np.ndarray, lines: Lines) -> bool:
    return bool(table[-1, 0] > FAR * max(one[-1, 0] for _, one in lines))


def _along(axis: Any, table: np.ndarray) -> list[tuple[float, float, float]]:
    """Points of a line, evenly over the panel, that labels keep off."""
    space = np.geomspace if axis.get_xscale() == "log" else np.linspace
    places = space(max(table[0, 0], 1), max(table[-1, 0], 1), POINTS)
    return [(float(x), float(y), 2.0) for x, y in zip(places, np.interp(places, table[:, 0], table[:, 1]), strict=True)]
