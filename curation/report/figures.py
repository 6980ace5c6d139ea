"""The drawings of the report, as SVG data URIs."""

import base64
import io
from typing import Any

import numpy as np

from curation.report.leaks import Certificate
from curation.report.tables import SCORE_NAMES, TrainingRun
from curation.report.view import View

KEPT, DROPPED, MADE, INK, GRID = "#2f6db3", "#d9772b", "#8067c4", "#3b4252", "#e3e7ee"
POINTS = 1500  # of a curve; a drawing of more only makes the file larger
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 9, "axes.titlesize": 10,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.edgecolor": "#b8c0cc", "axes.labelcolor": INK,
    "text.color": INK, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID, "legend.frameon": False, "legend.fontsize": 8,
    "svg.hashsalt": "pas",  # the same drawing gives the same bytes
}  # fmt: skip


def knee_curves(view: View) -> str | None:
    """Mean score of each front against the images removed with it, with the knees and the cut."""
    result = view.records["select"]["result"]
    front = view.numbers("front")
    rows = np.flatnonzero(~np.isnan(front))
    if not len(rows):
        return None
    sizes = np.bincount(front[rows].astype(int))
    removed = np.cumsum(sizes)
    thin = np.unique(np.linspace(0, len(sizes) - 1, POINTS).astype(int))
    used = (view.records["select"].get("settings") or {}).get("scores") or list(SCORE_NAMES)
    with drawing(3) as (figure, axes):
        for axis, name, knee in zip(axes, SCORE_NAMES, result.get("knees") or [None] * 3, strict=False):
            means = np.bincount(front[rows].astype(int), weights=view.numbers(name)[rows]) / np.maximum(sizes, 1)
            axis.plot(removed[thin], means[thin], color=KEPT, lw=1.6, marker="o" if len(thin) < 20 else "", ms=3)
            axis.axvline(result["cut"], color=INK, lw=1.2, label=f"cut {result['cut']:,}")
            if name not in used:
                axis.plot([], [], " ", label="does not count")
            elif knee is not None:
                axis.axvline(knee, color=DROPPED, lw=1.4, ls="--", label=f"knee {int(knee):,}")
            else:
                axis.plot([], [], " ", label="no knee")
            axis.set_title(SCORE_NAMES[name])
            axis.set_xlabel("images removed")
            axis.legend(loc="upper right")
        axes[0].set_ylabel("mean score of the front")
        return to_svg(figure)


Parts = list[tuple[np.ndarray, str, str]]  # mask of rows [N], colour, name
SIMILARITIES = {
    "concept_similarity": "Similarity to the best concept",
    "leak_similarity": "Similarity to a test image",
    "leak_score": "The same, normalised",
}


def histograms(view: View) -> str | None:
    """Scores of kept and of dropped images."""
    return _histograms(view, [(view.kept, KEPT, "kept"), (~view.kept, DROPPED, "dropped")])


def histograms_by_source(view: View) -> str | None:
    """Scores of real and of synthetic images, each as a share of its own; None where one of them is missing."""
    if not view.synthetic.any() or view.synthetic.all():
        return None
    return _histograms(view, [(~view.synthetic, KEPT, "real"), (view.synthetic, MADE, "synthetic")], share=True)


def _histograms(view: View, parts: Parts, share: bool = False) -> str | None:
    """Every score that there is, three in a row.

    share: percent of the images of each part, so that a large part does not hide a small one; else counts on a
    logarithmic axis, where the few images between two peaks, among which the cut lies, can be seen.
    """
    drawn = [(name, title, view.numbers(name)) for name, title in {**SCORE_NAMES, **SIMILARITIES}.items()]
    drawn = [(name, title, values) for name, title, values in drawn if not np.isnan(values).all()]
    if not drawn:
        return None
    with drawing(3, rows=-(-len(drawn) // 3)) as (figure, axes):
        for axis in axes[len(drawn) :]:
            axis.set_visible(False)
        for place, (axis, (name, title, values)) in enumerate(zip(axes, drawn, strict=False)):
            seen = ~np.isnan(values)
            if name == "text_gap":
                title += " (with text)"
                seen &= np.nan_to_num(view.numbers("text_area")) > 0
            axis.set_title(title)
            if not seen.any():
                axis.text(0.5, 0.5, "no image", transform=axis.transAxes, ha="center")
                continue
            edges = np.histogram_bin_edges(values[seen], bins=40)
            for mask, colour, label in parts:
                _steps(axis, values[seen & mask], edges, colour, label, share)
            if not share:
                axis.set_yscale("log")
                axis.minorticks_off()  # a third of the time of drawing
                axis.set_ylim(bottom=0.7)
            if place % 3 == 0:
                axis.set_ylabel("% of the images" if share else "images")
            line = _threshold(view, name)
            if line is not None:
                axis.axvline(line, color=INK, lw=1.2)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(parts))
        return to_svg(figure)


def _steps(axis: Any, values: np.ndarray, edges: np.ndarray, colour: str, label: str, share: bool) -> None:
    counts = np.histogram(values, edges)[0] * (100 / max(1, len(values)) if share else 1)
    axis.stairs(counts, edges, fill=True, alpha=0.3, color=colour, label=label)
    axis.stairs(counts, edges, lw=1.2, color=colour, zorder=3)


def _threshold(view: View, name: str) -> float | None:
    """The leakage threshold, on the similarity that is held against it."""
    normalised = "leak_score" in view.ledger.column_names
    if name != ("leak_score" if normalised else "leak_similarity"):
        return None
    settings = (view.records.get("leakage") or {}).get("settings") or {}
    if normalised:
        return ((settings.get("score_normalisation") or {}).get("threshold")) or None
    return settings.get("threshold")


def removals(certificate: Certificate) -> str | None:
    """Images of the pool whose cosine to a test image is above each threshold, the gate's own marked."""
    points = certificate.thresholds
    if not any(count for _, count in points):
        return None
    names = [f"{mark:g}" for mark, _ in points]
    counts = [count for _, count in points]
    with drawing(1, height=2.3) as (figure, axes):
        colours = [DROPPED if mark == certificate.threshold else KEPT for mark, _ in points]
        bars = axes[0].bar(names, counts, color=colours, width=0.7)
        axes[0].bar_label(bars, [f"{count:,}" for count in counts], fontsize=8, padding=2)
        axes[0].set_title("Images closer to a test image than")
        axes[0].set_yscale("symlog", linthresh=1)
        axes[0].set_ylim(0, 4 * max(counts))
        axes[0].set_ylabel("images")
        axes[0].set_xlabel("cosine")
        axes[0].grid(axis="x", visible=False)
        return to_svg(figure)


def training_curves(run: TrainingRun) -> str | None:
    """Loss and online k-NN accuracy over the steps."""
    series = [("train/loss", "Training loss", KEPT, 1.0), ("val/knn_top1", "Online k-NN top-1, %", DROPPED, 100.0)]
    drawn = [item for item in series if len(run.curves.get(item[0], []))]
    if not drawn:
        return None
    with drawing(2) as (figure, axes):
        for axis in axes[len(drawn) :]:
            axis.set_visible(False)
        for axis, (name, title, colour, factor) in zip(axes, drawn, strict=False):
            points = np.asarray(run.curves[name])
            points = points[np.unique(np.linspace(0, len(points) - 1, POINTS).astype(int))]
            marker = "o" if len(points) < 40 else ""
            axis.plot(points[:, 0], factor * points[:, 1], color=colour, lw=1.5, marker=marker, ms=3)
            axis.set_title(title)
            axis.set_xlabel("step")
        return to_svg(figure)


class drawing:
    """A figure in the report's style, made without pyplot: no global state, no display."""

    def __init__(self, columns: int, rows: int = 1, height: float = 2.9) -> None:
        self.columns, self.rows, self.height = columns, rows, height

    def __enter__(self) -> tuple[Any, list[Any]]:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        self.context = matplotlib.rc_context(STYLE)
        self.context.__enter__()
        # Titles clear of the row above; inches.
        figure = Figure(figsize=(11, self.height * self.rows), layout=ConstrainedLayoutEngine(h_pad=0.1))
        return figure, list(np.atleast_1d(figure.subplots(self.rows, self.columns)).ravel())

    def __exit__(self, *error: Any) -> None:
        self.context.__exit__(*error)


def to_svg(figure: Any) -> str:
    """A figure as a data URI; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
