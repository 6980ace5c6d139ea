"""Labels of points in a chart that cover neither each other nor the points."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

TURNS = (0, 8, 2, 14, 6, 10, 4, 12, 1, 15, 7, 9)  # sixteenths of a circle, the better places first
GAPS = (3.0, 9.0, 18.0, 30.0, 46.0, 66.0)  # between point and label, in points
LEADER = 8.0  # a label further than this from its point has a line to it, in points
OUTSIDE = 50.0  # how much worse it is to leave the panel than to cover something

Spot = tuple[float, float, float]  # x, y, radius in points
Label = tuple[str, str, Sequence[Spot]]  # text, colour, and the spots that it may stand beside


def place_labels(figure: Any, axis: Any, labels: Sequence[Label], obstacles: Sequence[Spot], size: float = 8.0) -> None:
    """Writes each label beside the one of its points where there is most room, with a line where it stands far off.

    The layout of the figure must be done, and its limits be final.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.patheffects import withStroke

    renderer = FigureCanvasAgg(figure).get_renderer()
    scale = figure.dpi / 72
    extent = axis.get_window_extent(renderer)
    frame = np.array([extent.x0, extent.y0, extent.x1, extent.y1])
    halo = [withStroke(linewidth=2.5, foreground="white")]  # takes time, and numbers are read without it
    taken = _around(axis, obstacles, scale)
    back = axis.transData.inverted()
    for text, colour, spots in labels:
        made = axis.text(
            0, 0, text, fontsize=size, color=colour, fontweight="bold", ha="center", va="center", zorder=6,
            path_effects=[] if text.isdigit() else halo,
        )  # fmt: skip
        own = made.get_window_extent(renderer)
        boxes, gaps, which = _candidates(axis, spots, own.width + 2 * scale, own.height, scale)
        best = int(np.argmin(_cost(boxes, frame, taken) + gaps + 2 * which))
        box = boxes[best]
        made.set_position(back.transform((box[:2] + box[2:]) / 2))
        if gaps[best] > LEADER:
            at = axis.transData.transform(spots[which[best]][:2])
            ends = back.transform([at, np.clip(at, box[:2], box[2:])])
            axis.plot(ends[:, 0], ends[:, 1], color=colour, lw=1, ls=":", zorder=2.5, scalex=False, scaley=False)
        taken = np.concatenate([taken, box[None]])


def _around(axis: Any, spots: Sequence[Spot], scale: float) -> np.ndarray:
    """Left, bottom, right and top [N, 4] of points, in pixels."""
    known = np.array(spots, float).reshape(-1, 3)
    middles, radii = axis.transData.transform(known[:, :2]), known[:, 2:] * scale
    return np.concatenate([middles - radii, middles + radii], axis=1)


def _candidates(
    axis: Any, spots: Sequence[Spot], width: float, height: float, scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes [C, 4] where a label could stand, how far off [C] (points), and beside which spot [C]."""
    boxes, gaps, which = [], [], []
    for place, (spot, (x, y)) in enumerate(zip(spots, axis.transData.transform([s[:2] for s in spots]), strict=True)):
        for gap in GAPS:
            reach = (spot[2] + gap) * scale
            for turn in TURNS:
                right, up = math.cos(turn * math.pi / 8), math.sin(turn * math.pi / 8)
                # The nearest point of the label lies `reach` away in this direction.
                left = x + right * reach - (0 if right > 0.3 else width if right < -0.3 else width / 2)
                bottom = y + up * reach - (0 if up > 0.3 else height if up < -0.3 else height / 2)
                boxes.append((left, bottom, left + width, bottom + height))
                gaps.append(gap)
                which.append(place)
    return np.array(boxes), np.array(gaps), np.array(which)


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Areas [C, O] that boxes [C, 4] share with others [O, 4]."""
    shared = []
    for side in (0, 1):  # one array for each is a third of the time of one for both
        low = np.maximum(boxes[:, None, side], others[None, :, side])
        length = np.minimum(boxes[:, None, side + 2], others[None, :, side + 2]) - low
        shared.append(np.maximum(length, 0, out=length))
    return shared[0] * shared[1]


def _cost(boxes: np.ndarray, frame: np.ndarray, taken: np.ndarray) -> np.ndarray:
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    outside = areas - overlaps(boxes, frame[None])[:, 0]
    return overlaps(boxes, taken).sum(axis=1) + OUTSIDE * outside


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The places nearest to the values, in their order, that lie at least `gap` apart between low and high."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    gap = min(gap, (high - low) / max(1, len(values) - 1))
    blocks: list[tuple[float, list[int]]] = []  # the lowest place of each block, and its members
    for one in order:
        blocks.append((min(max(values[one], low), high), [one]))
        while len(blocks) > 1 and blocks[-2][0] + gap * len(blocks[-2][1]) > blocks[-1][0]:
            members = blocks[-2][1] + blocks[-1][1]
            wanted = sum(values[m] - gap * i for i, m in enumerate(members)) / len(members)
            wanted = min(max(wanted, low), high - gap * (len(members) - 1))
            blocks[-2:] = [(wanted, members)]
    placed = [0.0] * len(values)
    for start, members in blocks:
        for step, member in enumerate(members):
            placed[member] = start + gap * step
    return placed
