"""The charts of a comparison: accuracy over the size of the pretraining set, and k-NN over the images seen."""

import io
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from pas_train.comparison.formats import short_number
from pas_train.comparison.placing import place_labels, spread
from pas_train.comparison.rows import Row
from pas_train.comparison.tables import AVERAGE, FAMILIES, METRICS, Cell, Table

COLOURS = ("#2f6db3", "#d9772b", "#2b8a5b", "#8067c4", "#c03b3b", "#1f9aa5", "#a87b1c", "#c2579b", "#5d6b7d", "#7a9a3a")
MARKERS = ("o", "s", "^", "D", "P", "v", "X", "p")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 2, 1.5, 2)))
INK, GRID = "#3b4252", "#e3e7ee"
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 9, "axes.titlesize": 10,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.edgecolor": "#b8c0cc", "axes.labelcolor": INK,
    "text.color": INK, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID, "legend.frameon": False, "legend.fontsize": 8,
    "svg.hashsalt": "pas",  # the same drawing gives the same bytes
}  # fmt: skip
LARGEST, SMALLEST = 420.0, 28.0  # areas of bubbles, in square points
NAMED = 12  # more rows have numbers in the chart, and a key below
LABEL = 30  # letters of a row's name in a chart
ALONE = [title for title, figures in FAMILIES.items() if list(figures.values()) == [""]]  # one figure, one panel
DPI = 180
FAR = 0.95  # of the longest line: whose end is at the right of its panel

Chart = dict[str, bytes]  # "png" and "svg"


def colours_of(rows: Iterable[Row]) -> dict[str, str]:
    """A colour for each pretraining set, the same in all charts and on the page."""
    names = dict.fromkeys(row.name for row in rows if row.kind == "trained")
    return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}


def titles_of(rows: Sequence[Row]) -> list[str]:
    """Short names of rows, with method, backbone and epochs only where these differ."""
    parts: list[Callable[[Row], str]] = [
        lambda row: row.backbone, lambda row: row.method, lambda row: f"{short_number(row.epochs)} epochs"
    ]  # fmt: skip
    telling = [part for part in parts if len({part(row) for row in rows}) > 1]
    return [", ".join([_cut(row.label), *(part(row) for part in telling)]) for row in rows]


def _cut(text: str) -> str:
    return text if len(text) <= LABEL else f"{text[: LABEL * 2 // 3 - 1]}…{text[-(LABEL // 3) :]}"


def accuracy_over_size(tables: Sequence[Table], rows: Sequence[Row]) -> Chart | None:
    """Bubbles: x the pretraining images, y the accuracy, area the forward passes, marker the evaluation set.

    A panel for each protocol. None where no row has both a size and an accuracy.
    """
    panels = [(table, points) for table in tables if table.title in ALONE and (points := _points(table))]
    if not panels:
        return None
    drawn = list({id(row): row for _, points in panels for row, *_ in points}.values())
    drawn.sort(key=lambda row: next(place for place, one in enumerate(rows) if one is row))
    titles = dict(zip(map(id, drawn), titles_of(drawn), strict=True))
    short = titles if len(drawn) <= NAMED else {id(row): str(place) for place, row in enumerate(drawn, 1)}
    sets = sorted({data_set for _, points in panels for _, data_set, _ in points})
    area = _areas(drawn)
    colours = colours_of(rows)
    with _drawing(len(panels), 4.1) as (figure, axes):
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        for axis, (table, points) in zip(axes, panels, strict=False):
            _bubbles(axis, table, points, sets, area, colours)
        _bubble_legend(figure, sets, drawn, area)
        if short is not titles:
            _key(figure, drawn, titles, colours)
        figure.draw_without_rendering()  # the layout is final before labels look for room
        figure.set_layout_engine("none")
        for axis, (_, points) in zip(axes, panels, strict=False):
            _label_bubbles(figure, axis, points, area, short, colours)
        return _written(figure)


Point = tuple[Row, str, Cell]


def _points(table: Table) -> list[Point]:
    return [
        (row, column.data_set, cell)
        for row, line in table.rows
        for column, cell in zip(table.columns, line, strict=True)
        if cell is not None and row.images and column.data_set != AVERAGE
    ]


def _areas(rows: Sequence[Row]) -> dict[int, float]:
    """Area of each row's bubble: proportional to its forward passes; the smallest where these are not known."""
    most = max((row.passes or 0 for row in rows), default=0)
    return {id(row): max(SMALLEST, LARGEST * (row.passes or 0) / most) if most else 90.0 for row in rows}


def _bubbles(
    axis: Any,
    table: Table,
    points: Sequence[Point],
    sets: Sequence[str],
    area: dict[int, float],
    colours: dict[str, str],
) -> None:
    for row, data_set, cell in sorted(points, key=lambda point: -area[id(point[0])]):
        colour, half = colours[row.name], cell.half or 0
        axis.errorbar(row.images, cell.value, half, color=colour, lw=1, capsize=2, alpha=0.8, zorder=3)
        axis.scatter(
            [row.images], [cell.value], s=area[id(row)], marker=MARKERS[sets.index(data_set) % len(MARKERS)],
            color=colour, alpha=0.55, edgecolors=colour, linewidths=1.2, zorder=4,
        )  # fmt: skip
    axis.set_xscale("log")
    sizes = [row.images or 1 for row, *_ in points]
    low, high = min(sizes), max(sizes)
    room = max(1.6, (high / low) ** 0.18)  # labels stand beside the bubbles
    axis.set_xlim(low / room, high * room)
    _size_ticks(axis, low / room, high * room)
    ends = [cell.value + sign * (cell.half or 0) for *_, cell in points for sign in (-1, 1)]
    margin = max(1.0, 0.12 * (max(ends) - min(ends)))
    axis.set_ylim(max(0, min(ends) - margin), min(100, max(ends) + margin) if max(ends) < 97 else 102)
    axis.set_title(table.name)
    axis.set_xlabel("images in the pretraining set")
    axis.set_ylabel(f"{METRICS[table.metric]}, %")


def _size_ticks(axis: Any, low: float, high: float) -> None:
    """Round numbers on a logarithmic axis, from three to seven of them."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    ticks: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), tuple(one / 10 for one in range(10, 100))):
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if len(ticks) >= 3:
            break
    ticks = ticks[:: -(-len(ticks) // 7)]
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(round(value))))


def _label_bubbles(
    figure: Any,
    axis: Any,
    points: Sequence[Point],
    area: dict[int, float],
    short: dict[int, str],
    colours: dict[str, str],
) -> None:
    def radius(row: Row) -> float:
        return math.sqrt(area[id(row)] / math.pi)

    places: dict[int, list[tuple[float, float, float]]] = {}
    members = {id(row): row for row, *_ in points}
    for row, _, cell in sorted(points, key=lambda point: -point[2].value):  # beside the best one, if there is room
        places.setdefault(id(row), []).append((float(row.images or 1), cell.value, radius(row)))
    labels = [(short[key], colours[members[key].name], own) for key, own in places.items()]
    place_labels(figure, axis, labels, [one for own in places.values() for one in own])


def _bubble_legend(figure: Any, sets: Sequence[str], rows: Sequence[Row], area: dict[int, float]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], ls="", marker=MARKERS[place % len(MARKERS)], color="#7b8494", ms=7, label=name)
        for place, name in enumerate(sets)
    ]
    known = sorted((row.passes, area[id(row)]) for row in rows if row.passes)
    shown = [known[0], known[-1]] if known and known[-1][0] > 1.2 * known[0][0] else known[-1:]
    handles += [
        Line2D([], [], ls="", marker="o", mfc="none", mec="#7b8494", ms=math.sqrt(size),
               label=f"{short_number(float(f'{passes:.2g}'))} forward passes")
        for passes, size in shown
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="outside upper left", ncols=min(6, len(handles)), handletextpad=0.9, columnspacing=2.2,
        borderpad=0.9, borderaxespad=0, labelspacing=1.2,
    )  # fmt: skip


def _key(figure: Any, rows: Sequence[Row], titles: dict[int, str], colours: dict[str, str]) -> None:
    """The names behind the numbers of a crowded chart."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], ls="", marker="o", ms=5, color=colours[row.name], label=f"{place}  {titles[id(row)]}")
        for place, row in enumerate(rows, 1)
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=_key_columns(titles.values()), columnspacing=1.6)


def _key_columns(titles: Iterable[str]) -> int:
    return max(1, 150 // (max(map(len, titles)) + 8))


# Curves.


def knn_over_images(rows: Sequence[Row]) -> Chart | None:
    """Online k-NN accuracy over the images seen: mean and range of the seeds. None where no training watched it.

    A panel for each pair of bank and queries, as far as these are known: others do not compare.
    """
    panels: dict[Any, list[tuple[Row, np.ndarray]]] = {}
    for row in rows:
        curves = [draw.training.get("curve") or [] for draw in row.draws]
        table = _curve([curve for curve in curves if curve])
        if table is not None:
            panels.setdefault(_watched(row), []).append((row, table))
    if not panels:
        return None
    colours = colours_of(rows)
    with _drawing(len(panels), 3.9) as (figure, axes):
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        crowded = max(map(len, panels.values())) > NAMED
        for axis, (watched, lines) in zip(axes, panels.items(), strict=False):
            _lines(axis, lines, colours)
            axis.set_title(f"Online k-NN{f' on {watched}' if watched else ''}")
            axis.set_xlabel("images seen")
            axis.set_ylabel("top-1 accuracy, %")
        if crowded:
            handles, names = axes[0].get_legend_handles_labels()
            figure.legend(handles, names, loc="outside lower left", ncols=_key_columns(names))
        figure.draw_without_rendering()
        for axis, lines in zip(axes, panels.values(), strict=False):
            if not crowded:
                _label_ends(figure, axis, lines, colours)
        return _written(figure)


def _watched(row: Row) -> str:
    """The labelled images of the online k-NN accuracy, in short."""
    known = row.first.result.watched
    name = known[1] if known is not None else ""
    return name.partition("?")[0].removeprefix("workspace:") + (
        f" ({row.domain})" if name.startswith("workspace:") else ""
    )


def _curve(curves: Sequence[Sequence[dict[str, Any]]]) -> np.ndarray | None:
    """[points, 4]: images seen by all seeds, and the mean, smallest and largest of their accuracies in percent."""
    if not curves:
        return None
    series = [np.array([(point["images_seen"], 100 * point["top1"]) for point in curve], float) for curve in curves]
    last = min(one[-1, 0] for one in series)
    first = max(one[0, 0] for one in series)
    seen = np.unique(np.concatenate([one[:, 0] for one in series]))
    seen = seen[(seen >= first) & (seen <= last)]
    if not len(seen):
        return None
    values = np.array([np.interp(seen, one[:, 0], one[:, 1]) for one in series])
    return np.stack([seen, values.mean(0), values.min(0), values.max(0)], axis=1)


def _lines(axis: Any, lines: Sequence[tuple[Row, np.ndarray]], colours: dict[str, str]) -> None:
    from matplotlib.ticker import FuncFormatter

    titles = titles_of([row for row, _ in lines])
    kinds = list(dict.fromkeys((row.method, row.backbone, row.detail) for row, _ in lines))
    for (row, table), title in zip(lines, titles, strict=True):
        dash = DASHES[kinds.index((row.method, row.backbone, row.detail)) % len(DASHES)]
        mark = {"marker": "o", "ms": 3} if len(table) < 12 else {}
        axis.plot(table[:, 0], table[:, 1], color=colours[row.name], lw=1.7, ls=dash, label=title, **mark)
        if (table[:, 3] > table[:, 2]).any():
            axis.fill_between(table[:, 0], table[:, 2], table[:, 3], color=colours[row.name], alpha=0.16, lw=0)
    axis.set_xlim(left=0)
    axis.set_ylim(bottom=max(0.0, axis.get_ylim()[0]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))


def _label_ends(figure: Any, axis: Any, lines: Sequence[tuple[Row, np.ndarray]], colours: dict[str, str]) -> None:
    """Names of the lines: at the right of the panel for those that reach it, beside their ends for others."""
    low, high = axis.get_ylim()
    height = axis.get_window_extent().height / figure.dpi * 72
    titles = titles_of([row for row, _ in lines])
    last = max(float(table[-1, 0]) for _, table in lines)
    named = [(row, table, title) for (row, table), title in zip(lines, titles, strict=True)]
    right = [one for one in named if one[1][-1, 0] > FAR * last]
    placed = spread([float(table[-1, 1]) for _, table, _ in right], 11 / height * (high - low), low, high)
    for (row, table, title), y in zip(right, placed, strict=True):
        axis.annotate(
            title, (table[-1, 0], table[-1, 1]), (1.015, y), textcoords=axis.get_yaxis_transform(), va="center",
            fontsize=8, fontweight="bold", color=colours[row.name], annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colours[row.name], "lw": 0.6, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
    figure.draw_without_rendering()  # the names at the right make the panels narrower
    obstacles = [
        (float(x), float(np.interp(x, table[:, 0], table[:, 1])), 2.0)
        for _, table in lines
        for x in np.linspace(table[0, 0], table[-1, 0], 120)
    ]
    short = [
        (title, colours[row.name], [(float(table[-1, 0]), float(table[-1, 1]), 2.0)])
        for row, table, title in named
        if not table[-1, 0] > FAR * last
    ]
    place_labels(figure, axis, short, obstacles)


class _drawing:
    """A figure made without pyplot: no global state, no display."""

    def __init__(self, panels: int, height: float) -> None:
        self.columns = panels if panels <= 3 else 2 if panels == 4 else 3
        self.rows, self.height = -(-panels // self.columns), height

    def __enter__(self) -> tuple[Any, list[Any]]:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        self.context = matplotlib.rc_context(STYLE)
        self.context.__enter__()
        size = ({1: 7.8, 2: 11.0}.get(self.columns, 13.5), self.height * self.rows)
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.09, w_pad=0.09))
        return figure, list(np.atleast_1d(figure.subplots(self.rows, self.columns)).ravel())

    def __exit__(self, *error: Any) -> None:
        self.context.__exit__(*error)


def _written(figure: Any) -> Chart:
    """The same figure gives the same bytes."""
    files = {}
    for kind, more in (("png", {"dpi": DPI, "metadata": {"Software": None}}), ("svg", {"metadata": {"Date": None}})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, **more)
        files[kind] = buffer.getvalue()
    return files
