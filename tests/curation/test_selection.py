"""The order of removal and where it is cut."""

import numpy as np
import pytest
import torch

from curation.pareto import pareto_fronts
from curation.selection import front_curves, knee_cut, removal_order


def test_removal_order__fronts_then_summed_ranks_then_rows() -> None:
    scores = np.array([[0.5, 0.1], [0.1, 0.9], [0.9, 0.2], [0.5, 0.1], [0.8, 0.8]])
    fronts = np.array([1, 0, 0, 1, 0])
    # Ranks 2.5, 1, 5, 2.5, 4 and 1.5, 5, 3, 1.5, 4: sums 4, 6, 8, 4, 8.
    order = removal_order(scores, fronts)
    assert order.tolist() == [2, 4, 1, 0, 3] and order.dtype == np.int64


def test_removal_order__ranks_count_all_rows_not_those_of_the_front() -> None:
    scores = np.array([[10.0, 0.0], [9.0, 3.0], [9.5, 0.5], [0.0, 1.0], [0.0, 2.0]])
    # Inside the front 0 and 1 both have rank sum 3; over all rows 5 + 1 against 3 + 5.
    assert removal_order(scores, np.array([0, 0, 1, 1, 1])).tolist()[:2] == [1, 0]


def test_removal_order__monotone_scores_give_the_same_order() -> None:
    scores = np.random.default_rng(0).random((200, 3))
    fronts = pareto_fronts(scores)
    np.testing.assert_array_equal(removal_order(np.exp(5 * scores), fronts), removal_order(scores, fronts))


def test_removal_order__is_a_permutation_in_which_the_dominating_goes_first() -> None:
    scores = np.random.default_rng(0).integers(0, 5, (300, 3)).astype(np.float32)
    order = removal_order(scores, pareto_fronts(scores))
    assert sorted(order.tolist()) == list(range(300))
    place = np.argsort(order)
    dominates = (scores[:, None] >= scores[None]).all(2) & (scores[:, None] > scores[None]).any(2)
    first, second = np.nonzero(dominates)
    assert len(first) and (place[first] < place[second]).all()


def test_removal_order__no_row() -> None:
    order = removal_order(np.empty((0, 3)), np.empty(0, np.int32))
    assert order.tolist() == [] and order.dtype == np.int64


def test_front_curves__cumulated_counts_and_means_of_each_front() -> None:
    scores = np.array([[4.0, 0.0], [2.0, 1.0], [1.0, 5.0], [3.0, 7.0], [0.0, 0.0]])
    x, y = front_curves(scores, np.array([1, 0, 0, 1, 3]))  # no row has front 2
    assert x.tolist() == [2, 4, 5]
    assert y.tolist() == [[1.5, 3.0], [3.5, 3.5], [0.0, 0.0]]


def falling(knee: int, count: int = 40) -> np.ndarray:
    """A score per front that falls steeply until the knee, then slowly."""
    x = np.arange(count)
    return np.where(x <= knee, 1 - 0.9 * x / knee, 0.1 * (count - 1 - x) / (count - 1 - knee))


def test_knee_cut__largest_knee_in_images_removed() -> None:
    fronts = np.repeat(np.arange(40), 3)
    scores = np.column_stack([falling(8), falling(15), falling(5)])[fronts]
    cut, knees = knee_cut(scores, fronts)
    assert knees == [9 * 3, 16 * 3, 6 * 3] and cut == 48
    assert all(type(knee) is int for knee in [cut, *knees])


@pytest.mark.parametrize("y", [np.full(40, 0.3), falling(8)[::-1], np.arange(40.0)])
def test_knee_cut__constant_and_rising_curves_have_none(y: np.ndarray) -> None:
    fronts = np.arange(40)
    assert knee_cut(np.column_stack([y, y]), fronts) == (0, [None, None])
    assert knee_cut(np.column_stack([y, falling(8)]), fronts) == (9, [None, 9])


@pytest.mark.parametrize("fronts", [[0, 0, 0], [0, 0, 1], []])
def test_knee_cut__fewer_than_three_fronts(fronts: list[int]) -> None:
    scores = np.linspace(1, 0, 3 * len(fronts)).reshape(len(fronts), 3)
    assert knee_cut(scores, np.array(fronts, int)) == (0, [None, None, None])


def test_knee_cut__straight_line_has_no_knee() -> None:
    assert knee_cut(np.linspace(1, 0, 40)[:, None], np.arange(40)) == (0, [None])


def test_knee_cut__sensitivity_reaches_kneedle() -> None:
    rough = falling(8) + 0.02 * np.cos(np.arange(40) * 2.1)
    knees = [knee_cut(rough[:, None], np.arange(40), sensitivity)[1] for sensitivity in (0.0, 1.0, 1000.0)]
    assert knees[0] != [None] and knees[-1] == [None]


def test_selection__tensor_in_tensor_out() -> None:
    scores = np.random.default_rng(0).random((100, 3)).astype(np.float32)
    fronts = pareto_fronts(scores)
    tensors = torch.from_numpy(scores).requires_grad_(), torch.from_numpy(fronts)
    order = removal_order(*tensors)
    assert isinstance(order, torch.Tensor) and order.tolist() == removal_order(scores, fronts).tolist()
    assert knee_cut(*tensors) == knee_cut(scores, fronts)


def test_knee_cut__pronounced_knee_is_where_a_late_fall_ends() -> None:
    # 40 fronts of 10 images: high with a dent at the beginning, falling from the 15th, flat from the 20th on
    curve = np.concatenate([[0.95, 0.9, 1.0], np.full(12, 1.0), np.linspace(1, 0.05, 6), np.linspace(0.04, 0.0, 19)])
    scores, fronts = np.repeat(curve, 10)[:, None], np.repeat(np.arange(len(curve)), 10)
    assert knee_cut(scores, fronts)[0] < 50
    cut, knees = knee_cut(scores, fronts, knee="pronounced")
    assert knees == [cut] and 190 <= cut <= 230


def test_knee_cut__pronounced_knee_of_a_rising_or_constant_curve_is_none() -> None:
    fronts = np.arange(6)
    assert knee_cut(np.linspace(0, 1, 6)[:, None], fronts, knee="pronounced") == (0, [None])
    assert knee_cut(np.ones((6, 1)), fronts, knee="pronounced") == (0, [None])
