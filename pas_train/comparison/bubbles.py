"""The chart of accuracy over the size of the pretraining set."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pas_train.comparison.cells import AVERAGE, METRICS, Cell
from pas_train.comparison.drawing import (
    GREY,
    NAMED,
    Chart,
    Drawing,
    add_key,
    colours_of,
    names_of,
    recipe_titles,
    size_ticks,
    written,
)
from pas_train.comparison.formats import short_number
from pas_train.comparison.placing import place_labels
from pas_train.comparison.rows import Row
from pas_train.comparison.tables import FAMILIES, Table

MARKERS = ("o", "s", "^", "d", "P", "v", "X", "p")
LARGEST, SMALLEST, ALIKE = 420.0, 28.0, 90.0  # areas of bubbles in square points; ALIKE where passes are not known
ALONE = [title for title, figures in FAMILIES.items() if list(figures.values()) == [""]]  # one figure, one panel
NEARLY, STEP, MOST = (
    0.02,
    0.07,
    0.35,
)  # of an axis: sizes that are nearly the same, their bubbles' distance, all of them
BAR = 9  # points of a bar that names keep off
COLUMNS = 3  # protocols side by side, where there are several recipes

Point = tuple[Row, str, Cell]  # a row on one evaluation set
Panel = tuple[Table, str, list[Point]]  # of one protocol and one recipe


def accuracy_over_size(tables: Sequence[Table], rows: Sequence[Row]) -> Chart | None:
    """Bubbles: x the pretraining images, y the accuracy, area the forward passes, marker the evaluation set.

    A panel for each protocol and recipe. None where no row has both a size and an accuracy.
    """
    from matplotlib.ticker import MaxNLocator

    panels = _panels(tables, rows)
    if not panels:
        return None
    drawn = list({id(row): row for _, _, points in panels for row, *_ in points}.values())
    sets = sorted({data_set for _, _, points in panels for _, data_set, _ in points})
    areas, colours = _areas(drawn), colours_of(rows)
    members = [list({id(row): row for row, *_ in points}.values()) for _, _, points in panels]
    short = {key: name for own in members for key, name in names_of(own).items()}
    numbers: dict[str, int] = {}
    if max(map(len, members)) > NAMED:
        numbers = {name: place for place, name in enumerate(dict.fromkeys(short.values()), 1)}
    titles = 2 if any(recipe for _, recipe, _ in panels) else 1
    columns = _columns(panels)
    with Drawing(len(panels), columns, 3.7, titles, 0.55, key=list(numbers)) as (figure, axes):
        for place, (axis, (table, recipe, points)) in enumerate(zip(axes, panels, strict=True)):
            _bubbles(axis, points, sets, areas, colours)
            if place + columns >= len(panels):  # the last one of its column
                axis.set_xlabel("images in the pretraining set")
            axis.set_title("\n".join(word for word in (table.name, recipe) if word))
            axis.set_ylabel(f"{table.columns[0].title or METRICS[table.metric]}, %")
            axis.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))  # numbers that leave the label room
        _legend(figure, sets, drawn, areas)
        if numbers:
            _numbered(figure, numbers, {short[id(row)]: colours[row.name] for row in drawn})
        for axis, (_, _, points) in zip(axes, panels, strict=True):
            texts = {key: str(numbers[name]) if numbers else name for key, name in short.items()}
            _name(figure, axis, points, areas, texts, colours)
        return written(figure)


def _panels(tables: Sequence[Table], rows: Sequence[Row]) -> list[Panel]:
    """Recipe after recipe, so that a line of panels has one of each protocol."""
    found = [(table, points) for table in tables if table.title in ALONE and (points := _points(table))]
    recipe_of = recipe_titles([row for row in rows if any(row is one for _, points in found for one, *_ in points)])
    recipes = sorted({recipe_of(row) for _, points in found for row, *_ in points})
    titles = list(dict.fromkeys(table.title for table, _ in found))[: COLUMNS if len(recipes) > 1 else None]
    panels = [
        (table, recipe, [point for point in points if recipe_of(point[0]) == recipe])
        for recipe in recipes
        for table, points in found
        if table.title in titles
    ]
    return [panel for panel in panels if panel[2]]


def _points(table: Table) -> list[Point]:
    return [
        (row, column.data_set, cell)
        for row, line in table.rows
        for column, cell in zip(table.columns, line, strict=True)
        if cell is not None and row.images and column.data_set != AVERAGE and column.first
    ]


def _columns(panels: Sequence[Panel]) -> int:
    """Panels side by side: the protocols, where there are several recipes below each other."""
    protocols = len({table.title for table, *_ in panels})
    return protocols if len(panels) > protocols > 1 else len(panels) if len(panels) <= 3 else 2


def _areas(rows: Sequence[Row]) -> dict[int, float]:
    """Area of each row's bubble: proportional to its forward passes, but for the smallest, which would not be seen."""
    most = max((row.passes or 0 for row in rows), default=0)
    return {id(row): max(SMALLEST, LARGEST * (row.passes or 0) / most) if most else ALIKE for row in rows}


def _bubbles(
    axis: Any, points: Sequence[Point], sets: Sequence[str], areas: dict[int, float], colours: dict[str, str]
) -> None:
    points = sorted(points, key=lambda point: -areas[id(point[0])])  # small ones in front
    places = beside({id(row): float(row.images or 1) for row, *_ in points})
    sizes = np.array([places[id(row)] for row, *_ in points])
    values = np.array([cell.value for *_, cell in points])
    lows, highs = np.array([bar_of(cell) for *_, cell in points]).T
    shades = [colours[row.name] for row, *_ in points]
    axis.vlines(sizes, lows, highs, colors=shades, lw=1.1, alpha=0.9, zorder=5)
    for place, data_set in enumerate(sets):
        own = [number for number, point in enumerate(points) if point[1] == data_set]
        if own:
            axis.scatter(
                sizes[own], values[own], s=[areas[id(points[number][0])] for number in own],
                marker=MARKERS[place % len(MARKERS)], c=[shades[number] for number in own], alpha=0.55,
                edgecolors=[shades[number] for number in own], linewidths=1.2, zorder=4,
            )  # fmt: skip
    axis.set_xscale("log")
    own = [row.images or 1 for row, *_ in points]
    low, high = limits(own)
    axis.set_xlim(low, high)
    size_ticks(axis, low, high, own[0] if min(own) == max(own) else None)
    bottom, top = lows.min(), highs.max()
    margin = max(1.0, 0.14 * (top - bottom))
    axis.set_ylim(max(-2.0, bottom - margin), min(104.0, top + margin))


def bar_of(cell: Cell) -> tuple[float, float]:
    """From the lowest seed to the highest; of one seed the interval over the test images.

    Of few seeds the interval of their mean may be as wide as the panel.
    """
    if len(cell.values) > 1:
        return min(cell.values), max(cell.values)
    return (cell.value, cell.value) if cell.low is None or cell.high is None else (cell.low, cell.high)


def limits(sizes: Sequence[float]) -> tuple[float, float]:
    """Ends of the logarithmic axis: names stand beside the bubbles."""
    room = max(1.6, (max(sizes) / min(sizes)) ** 0.18)
    return min(sizes) / room, max(sizes) * room


def beside(sizes: dict[int, float]) -> dict[int, float]:
    """Where the bubbles of rows stand: at their sizes, but side by side where these are the same, or nearly so."""
    low, high = limits(list(sizes.values()))
    width = math.log(high / low)
    groups: list[list[int]] = []
    for key in sorted(sizes, key=lambda key: sizes[key]):
        if groups and math.log(sizes[key] / sizes[groups[-1][0]]) < NEARLY * width:
            groups[-1].append(key)
        else:
            groups.append([key])
    places = {}
    for group in groups:
        step = min(STEP, MOST / len(group)) * width
        middle = sum(math.log(sizes[key]) for key in group) / len(group)
        for number, key in enumerate(group):
            shift = (number - (len(group) - 1) / 2) * step
            places[key] = math.exp(middle + shift) if len(group) > 1 else sizes[key]
    return places


def _name(
    figure: Any, axis: Any, points: Sequence[Point], areas: dict[int, float], texts: dict[int, str],
    colours: dict[str, str],
) -> None:  # fmt: skip
    sizes = beside({id(row): float(row.images or 1) for row, *_ in points})
    places: dict[int, list[tuple[float, float, float]]] = {}
    for row, _, cell in sorted(points, key=lambda point: -point[2].value):  # beside the best one, if there is room
        spot = (sizes[id(row)], cell.value, math.sqrt(areas[id(row)] / math.pi))
        places.setdefault(id(row), []).append(spot)
    shades = {id(row): colours[row.name] for row, *_ in points}
    labels = [(texts[key], shades[key], own) for key, own in places.items()]
    bars = [
        (sizes[id(row)], float(height), 2.0) for row, _, cell in points for height in np.linspace(*bar_of(cell), BAR)
    ]
    place_labels(figure, axis, labels, [one for own in places.values() for one in own] + bars)


def _legend(figure: Any, sets: Sequence[str], rows: Sequence[Row], areas: dict[int, float]) -> None:
    """Markers of the evaluation sets, and bubbles of the fewest and most forward passes."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], ls="", marker=MARKERS[place % len(MARKERS)], color=GREY, ms=7, label=name)
        for place, name in enumerate(sets)
    ]
    known = sorted((row.passes, areas[id(row)]) for row in rows if row.passes)
    shown = [known[0], known[-1]] if known and known[-1][0] > 1.2 * known[0][0] else known[-1:]
    handles += [
        Line2D([], [], ls="", marker="o", mfc="none", mec=GREY, ms=math.sqrt(size),
               label=f"{short_number(float(f'{passes:.2g}'))} forward passes")
        for passes, size in shown
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0, 1), ncols=len(handles), handletextpad=0.9,
        columnspacing=2.2, borderpad=1.2, borderaxespad=0,
    )  # fmt: skip


def _numbered(figure: Any, numbers: dict[str, int], colours: dict[str, str]) -> None:
    from matplotlib.lines import Line2D

    add_key(figure, [
        Line2D([], [], ls="", marker="o", ms=5, color=colours[name], label=f"{place}  {name}")
        for name, place in numbers.items()
    ])  # fmt: skip
