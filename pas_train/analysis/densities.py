"""Where sets lie beside each other: one UMAP of all embeddings together, and the density of each set on it."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pas_train.analysis.drawing import colour, figure, save

GRID = 160
MASS = (0.9, 0.7, 0.5, 0.3, 0.1)  # share of a set inside each contour
OUTLINES = (0.8, 0.4)  # where several sets share a panel
EXACT = 4096  # points below which UMAP compares all with all
FEWEST = 5  # points that have a density
DOTS = 3000


@dataclass(frozen=True)
class Points:
    """A set's name and its places, float32 [n, 2]."""

    name: str
    places: np.ndarray


def umap_together(
    names: Sequence[str], embeddings: Sequence[np.ndarray], seed: int, neighbours: int = 15, min_dist: float = 0.1
) -> list[Points]:
    """Places of the embeddings [n, D] of each set after one UMAP (cosine) of all of them; equal ones lie on one."""
    everything = np.concatenate(embeddings).astype(np.float32)
    stacked, copies = np.unique(everything, axis=0, return_inverse=True)
    if len(stacked) < FEWEST:  # too few for UMAP, so copies lie beside each other
        stacked, copies = everything, np.arange(len(everything))
    if len(stacked) < FEWEST:
        raise ValueError(f"a map of {len(stacked)} points says nothing; give larger sets")
    import umap

    few: dict[str, Any] = {}
    if len(stacked) < EXACT:  # what UMAP does with so few, without the seconds in which it compiles that
        known = neighbours_of(stacked, min(neighbours, len(stacked) - 1))
        few = {"precomputed_knn": known, "force_approximation_algorithm": True}
    with warnings.catch_warnings():  # that a fixed seed takes one thread, and numba's own
        warnings.simplefilter("ignore")
        reducer = umap.UMAP(
            n_neighbors=min(neighbours, len(stacked) - 1), min_dist=min_dist, metric="cosine", random_state=seed,
            n_jobs=1,
            init="spectral" if len(stacked) > 30 else "random", **few,
        )  # fmt: skip
        places = np.asarray(reducer.fit_transform(stacked), np.float32)[copies.reshape(-1)]
    ends = np.cumsum([len(part) for part in embeddings])[:-1]
    return [Points(name, part) for name, part in zip(names, np.split(places, ends), strict=True)]


def neighbours_of(vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(int [N, count], float32 [N, count]): the nearest of [N, D] by cosine distance, itself first, and how far."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    distance = np.maximum(1 - unit @ unit.T, 0)
    np.fill_diagonal(distance, -1)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :count]
    return nearest, np.maximum(np.take_along_axis(distance, nearest, axis=1), 0)


def kernel_width(sizes: Sequence[int]) -> float:
    """Of one map, in sides of it: one for all sets, as a width of its own would make a set look as broad as it is not.

    As narrow as the smallest set allows: such maps are clusters, which a kernel for one hill washes out.
    """
    return 0.07 * min((size for size in sizes if size >= FEWEST), default=FEWEST) ** (-1 / 6)


def density(places: np.ndarray, box: tuple[float, float, float, float], width: float) -> np.ndarray | None:
    """Gaussian kernel density float [GRID, GRID] (rows by y) in a box (left, right, bottom, top), up to a factor.

    width: of the kernel, in sides of the box. None of fewer points than make one.
    """
    from scipy.ndimage import gaussian_filter

    if len(places) < FEWEST:
        return None
    counts = np.histogram2d(places[:, 1], places[:, 0], GRID, (box[2:], box[:2]))[0]
    return gaussian_filter(counts, width * GRID, mode="constant")


def levels_of(values: np.ndarray, shares: Sequence[float] = MASS) -> list[float]:
    """The densities inside which so large shares of the mass lie, ascending, no two alike."""
    ordered = np.sort(values.ravel())[::-1]
    inside = np.cumsum(ordered) / ordered.sum()
    return sorted({float(ordered[min(int(np.searchsorted(inside, share)), len(ordered) - 1)]) for share in shares})


def overlap(first: Points, second: Points) -> float | None:
    """Shared mass of two sets' densities, 0 (apart) to 1 (alike), on their common grid."""
    box, width = _box([first, second]), kernel_width([len(first.places), len(second.places)])
    one, two = density(first.places, box, width), density(second.places, box, width)
    if one is None or two is None:
        return None
    return float(np.minimum(one / one.sum(), two / two.sum()).sum())


def draw_map(points: Sequence[Points], what: str, *paths: Path) -> None:
    """All sets' contours in one panel, then each set's density over the points of all. what: "images" or "texts"."""
    box = _box(points)
    panels = len(points) + (len(points) > 1)
    columns = 2 if panels == 4 else min(3, panels)
    rows = -(-panels // columns)
    everything = np.concatenate([one.places for one in points])
    everything = everything[np.linspace(0, len(everything) - 1, min(len(everything), DOTS)).astype(int)]
    width = kernel_width([len(one.places) for one in points])
    fields = [density(one.places, box, width) for one in points]
    with figure(3.5 * columns, 3.35 * rows + (0.3 if len(points) > 1 else 0)) as drawn:
        axes = list(np.atleast_1d(drawn.subplots(rows, columns)).ravel())
        for axis in axes:
            _bare(axis, box)
        if len(points) > 1:
            for place, (one, values) in enumerate(zip(points, fields, strict=True)):
                _contours(axes[0], values, box, place, filled=False)
                if values is None:
                    axes[0].scatter(*one.places.T, s=8, color=colour(place), linewidths=0)
                axes[0].plot([], [], color=colour(place), lw=2, label=one.name)
            axes[0].set_title("All together")
            drawn.legend(loc="outside lower center", ncols=min(4, len(points)))
        for axis, (place, one) in zip(axes[panels - len(points) :], enumerate(points), strict=False):
            axis.scatter(*everything.T, s=3, color="#c9d0da", linewidths=0, rasterized=True)
            _contours(axis, fields[place], box, place, filled=True)
            if fields[place] is None or len(one.places) <= 300:
                axis.scatter(*one.places.T, s=5, color=colour(place), linewidths=0, rasterized=True)
            axis.set_title(f"{one.name}: {len(one.places):,} {what}")
        for axis in axes[panels:]:
            axis.set_visible(False)
        save(drawn, *paths)


def _box(points: Sequence[Points]) -> tuple[float, float, float, float]:
    """The square around all points, with a margin for the contours around the outermost."""
    places = np.concatenate([one.places for one in points])
    low, high = places.min(axis=0), places.max(axis=0)
    middle, half = (low + high) / 2, 0.65 * float((high - low).max()) or 1.0
    return middle[0] - half, middle[0] + half, middle[1] - half, middle[1] + half


def _bare(axis: Any, box: tuple[float, float, float, float]) -> None:
    """Without numbers: the axes of such a map have no unit."""
    axis.set(xlim=box[:2], ylim=box[2:], aspect="equal", xticks=[], yticks=[])
    axis.grid(False)
    axis.spines[["top", "right"]].set_visible(True)


def _contours(axis: Any, values: np.ndarray | None, box: tuple[float, ...], place: int, filled: bool) -> None:
    if values is None or not values.any():
        return
    levels = levels_of(values) if filled else levels_of(values, OUTLINES)
    x, y = (start + (np.arange(GRID) + 0.5) * (end - start) / GRID for start, end in (box[:2], box[2:]))
    if filled:
        from matplotlib.colors import to_rgba

        shades = [to_rgba(colour(place), 0.12 + 0.5 * step / len(levels)) for step in range(len(levels))]
        axis.contourf(x, y, values, [*levels, float(values.max()) * 1.001], colors=shades)
        axis.contour(x, y, values, levels, colors=colour(place), linewidths=0.6)
        return
    axis.contour(x, y, values, levels, colors=colour(place), linewidths=np.linspace(0.7, 1.8, len(levels)))
