"""What the charts have in common: style, colours, panels, keys, files."""

import io
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from pas_train.comparison.formats import short_number
from pas_train.comparison.rows import Row

COLOURS = ("#2f6db3", "#d9772b", "#2b8a5b", "#8067c4", "#c03b3b", "#1f9aa5", "#a87b1c", "#c2579b", "#5d6b7d", "#7a9a3a")
INK, GRID, GREY = "#3b4252", "#e3e7ee", "#7b8494"
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 9, "axes.titlesize": 10,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.edgecolor": "#b8c0cc", "axes.labelcolor": INK,
    "text.color": INK, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID, "legend.frameon": False, "legend.fontsize": 8,
    "svg.hashsalt": "pas",  # the same drawing gives the same bytes
    "axes.titley": 1.0,  # where it is anyway: else it is looked for in every drawing
}  # fmt: skip
WIDTHS = {1: 7.8, 2: 11.0, 3: 13.5}  # of a figure with so many columns, in inches
NAMED = 9  # more rows in a panel have numbers, or colours alone, and a key below
PANELS = 6  # more recipes share one panel
LETTERS = 34  # of a row's name in a chart
KEY_LINE = 0.2  # height of a line of the key, in inches
LEFT, BELOW, EDGE, TITLE_LINE = 0.58, 0.55, 0.06, 0.17  # margins of panels, and the line of a title, in inches
DPI = 160

Chart = dict[str, bytes]  # "png" and "svg"
Part = Callable[[Row], str]


def colours_of(rows: Iterable[Row]) -> dict[str, str]:
    """A colour for each pretraining set, the same in all charts and on the page."""
    names = dict.fromkeys(row.name for row in rows if row.kind == "trained")
    return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}


def recipe_titles(rows: Sequence[Row]) -> Part:
    """What tells the recipes of some rows apart, which then have panels of their own; nothing where it is one."""
    parts = _parts(rows)
    for known in (parts, parts[:2]):
        telling = [part for part in known if len({part(row) for row in rows}) > 1]
        recipes = {tuple(part(row) for part in telling) for row in rows}
        if len(recipes) <= PANELS:
            return lambda row, telling=telling: ", ".join(part(row) for part in telling)  # type: ignore[misc]
    return lambda row: ""


def names_of(rows: Sequence[Row]) -> dict[int, str]:
    """Short names of the rows of one panel, by id; with what they are trained by only where that differs."""
    telling = [part for part in _parts(rows) if len({part(row) for row in rows}) > 1]
    return {id(row): ", ".join([_cut(row.label), *(part(row) for part in telling)]) for row in rows}


def _parts(rows: Sequence[Row]) -> list[Part]:
    """Backbone, method, and the epochs where some set was trained for several.

    Else these follow from the sizes of the sets, as where all are trained for as many steps.
    """
    parts: list[Part] = [lambda row: row.backbone, lambda row: row.method]
    recipes = {(row.name, row.images, row.backbone, row.method) for row in rows}
    if len({(row.name, row.images, row.backbone, row.method, row.epochs) for row in rows}) > len(recipes):
        parts.append(lambda row: f"{short_number(row.epochs)} epochs")
    return parts


def _cut(text: str) -> str:
    return text if len(text) <= LETTERS else f"{text[: LETTERS * 2 // 3 - 1]}…{text[-(LETTERS // 3) :]}"


class Drawing:
    """A figure made without pyplot: no global state, no display.

    Its margins are known, in inches, rather than measured: measuring them takes as long as drawing. titles: lines of a
    panel's title. top: for a legend. right: beside each panel. key: names that come below all panels.
    """

    def __init__(
        self, panels: int, columns: int, height: float, titles: int = 1, top: float = 0.0, right: float = 0.12,
        key: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.panels, self.columns, self.rows, self.width = panels, columns, -(-panels // columns), WIDTHS[columns]
        self.head, self.right, self.top = 0.12 + TITLE_LINE * titles, right, top
        self.bottom = KEY_LINE * -(-len(key) // key_columns(key, self.width)) + 0.12 if key else 0.0
        self.panel = height - self.head - BELOW
        self.height = self.rows * height + top + self.bottom + EDGE

    def __enter__(self) -> tuple[Any, list[Any]]:
        import matplotlib
        from matplotlib.figure import Figure

        self.context = matplotlib.rc_context(STYLE)
        self.context.__enter__()
        figure = Figure(figsize=(self.width, self.height), layout=None)
        width = (self.width - EDGE - self.columns * (LEFT + self.right)) / self.columns
        margins = {
            "left": LEFT / self.width, "right": 1 - (self.right + EDGE) / self.width,
            "bottom": (BELOW + self.bottom + EDGE) / self.height, "top": 1 - (self.top + self.head) / self.height,
            "wspace": (LEFT + self.right) / width, "hspace": (self.head + BELOW) / self.panel,
        }  # fmt: skip
        axes = np.atleast_1d(figure.subplots(self.rows, self.columns, gridspec_kw=margins)).ravel()
        for axis in axes[self.panels :]:
            axis.remove()
        return figure, list(axes[: self.panels])

    def __exit__(self, *error: Any) -> None:
        self.context.__exit__(*error)


def key_columns(names: Sequence[str], width: float) -> int:
    """How many names of a key stand side by side."""
    return max(1, min(len(names), int(width * 12.5) // (max(map(len, names)) + 8)))


def add_key(figure: Any, handles: Sequence[Any]) -> None:
    """The names behind the colours or numbers of a crowded chart, below it."""
    columns = key_columns([handle.get_label() for handle in handles], figure.get_figwidth())
    figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 0), ncols=columns, columnspacing=1.6, borderpad=0.6,
        borderaxespad=0,
    )  # fmt: skip


def tick(value: float, place: int = 0) -> str:
    """A number of images on an axis."""
    return f"{value / 1000:.3g}K" if 1000 <= value < 10_000 else short_number(round(value))


def size_ticks(axis: Any, low: float, high: float, alone: float | None = None) -> None:
    """Round numbers on a logarithmic axis, from three to seven of them; or the only number that there is."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    ticks: list[float] = []
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), tuple(one / 10 for one in range(10, 100))):
        ticks = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if len(ticks) >= 3:
            break
    ticks = [alone] if alone is not None else ticks[:: max(1, -(-len(ticks) // 7))]
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(tick))


def written(figure: Any) -> Chart:
    """The figure's files; the same figure gives the same bytes."""
    files = {}
    for kind, more in (
        ("png", {"dpi": DPI, "metadata": {"Software": None}, "pil_kwargs": {"compress_level": 4}}),
        ("svg", {"metadata": {"Date": None}}),
    ):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, **more)
        files[kind] = buffer.getvalue()
    return files
