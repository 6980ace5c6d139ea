"""Figures in the house style, without pyplot: no global state, no display; the same figure gives the same bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datamodules.files import atomic

INK, GRID = "#3b4252", "#e3e7ee"
# Of data sets, told apart by people who see few colours too.
COLOURS = ("#2f6db3", "#d9772b", "#2b8a5b", "#8067c4", "#c03b3b", "#7a6a2f", "#1f9aa8", "#b04a8b")
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 9, "axes.titlesize": 10,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.edgecolor": "#b8c0cc", "axes.labelcolor": INK,
    "text.color": INK, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID, "legend.frameon": False, "legend.fontsize": 8,
    "svg.hashsalt": "pas",
}  # fmt: skip


@contextmanager
def figure(width: float, height: float) -> Iterator[Any]:
    """An empty figure of this size in inches."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def colour(place: int) -> str:
    """Of the data set of this number."""
    return COLOURS[place % len(COLOURS)]


def save(drawn: Any, *paths: Path, dpi: int = 150) -> None:
    """Writes a figure as PNG or SVG, by the names."""
    for path in paths:
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        with atomic(path) as temporary, open(temporary, "wb") as file:
            drawn.savefig(file, format=path.suffix[1:], dpi=dpi, metadata=metadata, facecolor="white")
