"""Balance, coverage of labels, banks and densities, against numbers made by hand."""

from pathlib import Path

import numpy as np
import pytest

from pas_train.analysis.balance import balance, class_counts
from pas_train.analysis.bank import bank_accuracies, match_classes
from pas_train.analysis.densities import Points, density, draw_map, levels_of, neighbours_of, overlap
from pas_train.analysis.lexical import cover, draw_coverage


def test_balance__select_figures() -> None:
    counts = np.array([600, 500, 499, 0] + [1] * 36)  # 40 classes: the largest two are 5 %
    found = balance(counts)
    assert found["coverage"] == 39 / 40 and found["present"] == 39
    assert found["lt_500"] == 38 and found["lt_500_share"] == 38 / 40
    assert found["ls_5pct"] == pytest.approx(1100 / 1635)
    assert balance(np.array([7, 7, 7]))["balance"] == pytest.approx(1)
    assert balance(np.array([0, 0]))["ls_5pct"] is None and balance(np.array([], int)) == {}


def test_class_counts__images_without_a_class_count_for_none() -> None:
    assert class_counts(np.array([0, -1, 2, 2]), 4).tolist() == [1, 0, 2, 0]


def unit(*values: float) -> np.ndarray:
    return np.array(values, np.float32) / np.linalg.norm(values)


VECTORS = {"bread": unit(1, 0), "loaf": unit(1, 0.2), "car": unit(0, 1), "toast": unit(1, 0.9)}


def test_cover__the_same_words_are_at_0_and_others_at_their_cosine(tmp_path: Path) -> None:
    (found,) = cover({"labels": ["bread", "toast"]}, {"bank": ["loaf", "car", "bread"]}, VECTORS)
    assert found.nearest == ["bread", "loaf"] and found.distance[0] == 0
    assert found.distance[1] == pytest.approx(1 - float(VECTORS["toast"] @ VECTORS["loaf"]), abs=1e-6)
    figures = found.figures()
    assert (figures["same"], figures["under_0.05"], figures["under_0.2"]) == (0.5, 0.5, 1.0)
    draw_coverage([found], ["bank"], tmp_path / "coverage.png", tmp_path / "coverage.svg")
    assert (tmp_path / "coverage.png").stat().st_size > 3000 and "<svg" in (tmp_path / "coverage.svg").read_text()


def test_match_classes__by_words_then_by_nearness() -> None:
    classes = ["bread", "car"]
    assert match_classes(["car", "loaf", "toast", "sea"], classes, VECTORS, 0.1).tolist() == [1, 0, -1, -1]
    assert match_classes(["car", "loaf"], classes, {}, 0.1).tolist() == [1, -1]


def test_bank_accuracies__are_those_of_the_nearest() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(3, 8)
    labels = np.repeat([0, 1], 20)
    bank = (centres[labels] + rng.normal(0, 0.05, (40, 8))).astype(np.float32)
    truth = np.repeat([0, 1, 2], 10)
    queries = (centres[truth] + rng.normal(0, 0.05, (30, 8))).astype(np.float32)
    found = bank_accuracies(bank, labels, queries, truth, 3)
    assert found["bank_images"] == 40 and found["classes"] == pytest.approx(2 / 3)
    assert found["knn"] == found["knn10"] == found["knn20"] == pytest.approx(2 / 3)
    assert "knn100" not in found


def blob(centre: tuple[float, float], seed: int, count: int = 200) -> np.ndarray:
    return np.random.default_rng(seed).normal(centre, 1.0, (count, 2)).astype(np.float32)


def test_overlap__of_the_same_distribution_is_high_and_of_others_low() -> None:
    here, also, there = (Points("a", blob((0, 0), 0)), Points("b", blob((0, 0), 1)), Points("c", blob((9, 0), 2)))
    assert overlap(here, also) > 0.7 and overlap(here, there) < 0.05
    assert overlap(here, Points("few", blob((0, 0), 3, 2))) is None


def test_levels__hold_their_shares_of_the_mass() -> None:
    values = density(blob((0, 0), 0, 500), (-5, 5, -5, 5), 0.03)
    assert values is not None
    levels = levels_of(values, (0.9, 0.5))
    shares = [values[values >= level].sum() / values.sum() for level in levels]
    assert shares == [pytest.approx(0.9, abs=0.01), pytest.approx(0.5, abs=0.02)]
    assert density(np.zeros((4, 2)), (-1, 1, -1, 1), 0.03) is None


def test_density__is_the_kernels_of_all_points() -> None:
    from scipy.stats import multivariate_normal

    places = blob((1, -2), 0, 50) / 2
    values = density(places, (-5, 5, -5, 5), 0.05)  # of a side of 10: 0.5
    ruler = -5 + (np.arange(160) + 0.5) / 16
    grid = np.stack(np.meshgrid(ruler, ruler), axis=-1)
    expected = sum(multivariate_normal(place, 0.25).pdf(grid) for place in places)
    assert values is not None
    assert np.abs(values / values.sum() - expected / expected.sum()).max() < 0.02 * expected.max() / expected.sum()


def test_neighbours__are_the_nearest_by_cosine() -> None:
    vectors = np.array([[2, 0], [0, 1], [1, 0.1], [0.1, 3], [4, 0]], np.float32)
    places, distances = neighbours_of(vectors, 3)
    assert places.tolist() == [[0, 4, 2], [1, 3, 2], [2, 0, 4], [3, 1, 2], [4, 0, 2]]
    assert (distances[:, 0] == 0).all() and distances[0].tolist() == pytest.approx([0, 0, 1 - 1 / 1.01**0.5], abs=1e-6)


@pytest.mark.parametrize("sets", [1, 2, 5])
def test_draw_map__any_number_of_sets_and_few_points(tmp_path: Path, sets: int) -> None:
    points = [Points(f"a set with a long name {n}", blob((n, n % 2), n, 3 if n == 1 else 60)) for n in range(sets)]
    draw_map(points, "images", tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 10_000
