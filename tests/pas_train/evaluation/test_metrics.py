import numpy as np
import pytest
import torch

from pas_train.evaluation.metrics import best_classes, figures, largest, over_seeds, wilson


def test_figures__of_a_case_counted_by_hand() -> None:
    ranked = np.array([[0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [5, 4, 3, 2, 1], [5, 1, 2, 3, 4]])
    told = figures(ranked, np.array([0, 0, 0, 5]))
    assert told["top1"] == 0.5
    assert told["top5"] == 0.75
    assert told["mean_per_class"] == pytest.approx((1 / 3 + 1) / 2)  # classes 1 to 4 have no test image
    assert told["interval"] == pytest.approx([0.15, 0.85], abs=0.001)


def test_figures__top5_only_where_five_classes_are_ranked() -> None:
    assert "top5" not in figures(np.zeros((9, 1), int), np.arange(9))
    assert figures(np.array([[0, -1, -1, -1, -1]] * 9), np.arange(9))["top5"] == pytest.approx(1 / 9)
    assert figures(np.array([[1, 0], [1, 0]]), np.array([0, 1]))["top5"] == 1.0  # two classes, both ranked


def test_figures__nothing_or_unequal_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 predictions for 3 labels"):
        figures(np.zeros((2, 5), int), np.zeros(3, int))
    with pytest.raises(ValueError, match="not none"):
        figures(np.zeros((0, 5), int), np.zeros(0, int))


def test_wilson__known_values_and_ends() -> None:
    assert wilson(0.9, 100) == pytest.approx([0.825, 0.945], abs=0.001)
    assert wilson(0.0, 10)[0] == pytest.approx(0.0, abs=1e-12) and wilson(1.0, 10)[1] == pytest.approx(1.0)
    assert wilson(1.0, 10)[0] == pytest.approx(0.7225, abs=0.0005)


def test_best_classes__equal_scores_go_to_the_smaller_class_and_no_numbers_to_none() -> None:
    scores = torch.tensor([[1.0, 3, 3, 2, 0, 2], [float("nan"), 1, 2, 3, 4, 5]])
    assert best_classes(scores).tolist() == [[1, 2, 3, 5, 0], [-1] * 5]
    assert best_classes(np.array([[0.1, 0.9]])).tolist() == [[1, 0]]


@pytest.mark.parametrize("k", [1, 2, 7, 30])
def test_largest__as_a_stable_sort(k: int) -> None:
    values = torch.randint(0, 9, (200, 30), generator=torch.Generator().manual_seed(0)).float()
    top, columns = largest(values, k)
    expected = values.sort(dim=1, descending=True, stable=True)
    assert torch.equal(top, expected.values[:, :k])
    assert torch.equal(columns, expected.indices[:, :k])


def test_over_seeds__means_and_the_top1_of_each() -> None:
    parts = [{"top1": 0.5, "mean_per_class": 0.2}, {"top1": 0.7, "mean_per_class": 0.4}]
    told = over_seeds(parts, 100)
    assert told["top1"] == pytest.approx(0.6) and told["mean_per_class"] == pytest.approx(0.3)
    assert told["seeds"] == [0.5, 0.7] and told["interval"] == wilson(told["top1"], 100)
    assert "seeds" not in over_seeds(parts[:1], 100) and "top5" not in told
