"""Labels of points in a chart that cover neither each other nor the points."""

import math
from collections.abc import Sequence
from typing import Any

Box = tuple[float, float, float, float]  # left, bottom, right, top in pixels

DIRECTIONS = [
    (math.cos(turn * math.pi / 8), math.sin(turn * math.pi / 8)) for turn in (0, 8, 2, 14, 6, 10, 4, 12, 1, 15, 7, 9)
]
GAPS = (3.0, 9.0, 18.0, 30.0, 46.0, 66.0)  # between point and label, in points
LEADER = 8.0  # a label further than this from its point has a line to it, in points
OUTSIDE, NEAR_OTHERS = 50.0, 1.0  # weights beside that of covering something, which is 1 for a square pixel
TITLE = 11


def overlap(one: Box, other: Box) -> float:
    """Area that two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return width * height if width > 0 and height > 0 else 0.0


def place_labels(
    figure: Any, axis: Any, labels: Sequence[tuple[str, str, Sequence[tuple[float, float, float]]]],
    obstacles: Sequence[tuple[float, float, float]], size: float = 8.0,
) -> None:  # fmt: skip
    """Writes each label beside the one of its points where there is most room, with a line where it stands far off.

    labels: text, colour, and the points (x, y, radius in points) that it may stand beside. obstacles: all points. The
    layout of the figure must be done, and its limits be final.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.patheffects import withStroke

    renderer = FigureCanvasAgg(figure).get_renderer()
    scale = figure.dpi / 72
    inside = axis.get_window_extent(renderer)
    frame = (inside.x0, inside.y0, inside.x1, inside.y1)
    taken = [_around(axis, point, scale) for point in obstacles]
    halo = [withStroke(linewidth=2.5, foreground="white")]
    for text, colour, points in labels:
        made = axis.text(0, 0, text, fontsize=size, color=colour, fontweight="bold", path_effects=halo, zorder=6)
        extent = made.get_window_extent(renderer)
        width, height = extent.width + 2 * scale, extent.height
        best = min(
            (_cost(box, frame, taken) + gap + 2 * step, box, point, gap)
            for step, point in enumerate(points)
            for gap in GAPS
            for box in _boxes(axis, point, gap * scale, width, height, scale)
        )
        _, box, point, gap = best
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        made.set_position(axis.transData.inverted().transform(middle))
        made.set(ha="center", va="center")
        if gap > LEADER:
            at = axis.transData.transform(point[:2])
            end = (min(max(at[0], box[0]), box[2]), min(max(at[1], box[1]), box[3]))
            ends = axis.transData.inverted().transform([at, end])
            axis.plot(ends[:, 0], ends[:, 1], color=colour, lw=0.7, alpha=0.7, zorder=2.5, scalex=False, scaley=False)
        taken.append(box)


def _around(axis: Any, point: tuple[float, float, float], scale: float) -> Box:
    x, y = axis.transData.transform(point[:2])
    radius = point[2] * scale
    return (x - radius, y - radius, x + radius, y + radius)


def _boxes(
    axis: Any, point: tuple[float, float, float], gap: float, width: float, height: float, scale: float
) -> list[Box]:
    """Where a label could stand around a point."""
    x, y = axis.transData.transform(point[:2])
    reach = point[2] * scale + gap
    boxes = []
    for right, up in DIRECTIONS:
        # The nearest point of the label lies `reach` away in this direction.
        left = x + right * reach - (0 if right > 0.3 else width if right < -0.3 else width / 2)
        bottom = y + up * reach - (0 if up > 0.3 else height if up < -0.3 else height / 2)
        boxes.append((left, bottom, left + width, bottom + height))
    return boxes


def _cost(box: Box, frame: Box, taken: Sequence[Box]) -> float:
    area = (box[2] - box[0]) * (box[3] - box[1])
    covered = sum(overlap(box, other) for other in taken)
    return NEAR_OTHERS * covered + OUTSIDE * (area - overlap(box, frame))


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The places nearest to the values, in their order, that lie at least `gap` apart between low and high."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    gap = min(gap, (high - low) / max(1, len(values) - 1))
    blocks: list[tuple[float, list[int]]] = []  # the lowest place of each block, and its members
    for one in order:
        blocks.append((values[one], [one]))
        while len(blocks) > 1 and blocks[-2][0] + gap * len(blocks[-2][1]) > blocks[-1][0]:
            members = blocks[-2][1] + blocks[-1][1]
            wanted = sum(values[m] - gap * i for i, m in enumerate(members)) / len(members)
            blocks[-2:] = [(wanted, members)]
    placed = [0.0] * len(values)
    for start, members in blocks:
        start = min(max(start, low), high - gap * (len(members) - 1))
        for step, member in enumerate(members):
            placed[member] = start + gap * step
    return placed
