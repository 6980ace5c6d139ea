import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pas_train.comparison.placing import overlaps, place_labels, spread


def test_overlaps__areas_that_boxes_share() -> None:
    boxes = np.array([[0, 0, 2, 2], [5, 5, 6, 6]], float)
    assert overlaps(boxes, np.array([[1, 1, 3, 3], [2, 0, 4, 2]], float)).tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize("count", [2, 8])
def test_place_labels__points_at_one_place_have_labels_that_do_not_cover_each_other(count: int) -> None:
    figure = Figure(figsize=(6, 4))
    axis = figure.subplots()
    axis.set(xlim=(0, 1), ylim=(0, 1))
    spots = [(0.5, 0.5 + 0.01 * place, 5.0) for place in range(count)]
    place_labels(figure, axis, [(f"a set {n}", "black", [spot]) for n, spot in enumerate(spots)], spots)
    renderer = FigureCanvasAgg(figure).get_renderer()
    extents = [text.get_window_extent(renderer) for text in axis.texts]
    boxes = np.array([extent.extents for extent in extents])
    shared = overlaps(boxes, boxes) - np.diag(overlaps(boxes, boxes).diagonal())
    assert shared.max() == 0
    frame = axis.get_window_extent(renderer).extents
    assert overlaps(boxes, frame[None])[:, 0] == pytest.approx(overlaps(boxes, boxes).diagonal())


def test_spread__keeps_the_order_the_gap_and_the_limits() -> None:
    placed = spread([5.0, 5.1, 0.0, 9.9, 10.0], 1.0, 0.0, 10.0)
    assert placed == pytest.approx([4.55, 5.55, 0.0, 9.0, 10.0])


def test_spread__too_many_share_the_room() -> None:
    assert spread([1.0] * 5, 10.0, 0.0, 8.0) == pytest.approx([0, 2, 4, 6, 8])
