import numpy as np
import pytest

from pas_train.evaluation.linear import linear_probe

KINDS = ["sgd", "adamw"]


def clusters(seed: int, count: int, spread: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Three classes around three far points of eight dimensions."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(3, 8))
    labels = rng.integers(0, 3, count)
    return (centres[labels] + spread * rng.normal(size=(count, 8))).astype(np.float32), labels


@pytest.mark.parametrize("kind", KINDS)
def test_linear_probe__separates_what_is_separable(kind: str) -> None:
    assert linear_probe(*clusters(0, 200), *clusters(1, 100), kind, epochs=40, batch_size=32) > 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_linear_probe__noise_is_right_by_chance(kind: str) -> None:
    noise = (*clusters(0, 200, spread=100.0), *clusters(1, 600, spread=100.0))
    assert 0.25 < linear_probe(*noise, kind, epochs=10) < 0.42


@pytest.mark.parametrize("kind", KINDS)
def test_linear_probe__scale_and_place_of_features_do_not_matter(kind: str) -> None:
    (x, y), (test, answers) = clusters(0, 100, 1.0), clusters(1, 100, 1.0)
    plain = linear_probe(x, y, test, answers, kind, epochs=5)
    assert 0.4 < plain < 1
    assert linear_probe(x * 1000 + 70, y, test * 1000 + 70, answers, kind, epochs=5) == pytest.approx(plain, abs=0.021)


@pytest.mark.parametrize("kind", KINDS)
def test_linear_probe__same_seed_same_accuracy(kind: str) -> None:
    sets = (*clusters(0, 100, 1.5), *clusters(1, 300, 1.5))
    first, again, other = (linear_probe(*sets, kind, epochs=3, batch_size=16, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_linear_probe__a_class_that_training_lacks_is_never_right() -> None:
    (x, y), (test, answers) = clusters(0, 200), clusters(1, 90)
    assert linear_probe(x[y != 2], y[y != 2], test, answers, epochs=20) <= (answers != 2).mean() + 1e-6


def test_linear_probe__many_dimensions_do_not_diverge() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    x = (rng.normal(size=(60, 3000)) + labels[:, None]).astype(np.float32)
    assert linear_probe(x, labels, x, labels, epochs=20) == 1.0


def test_linear_probe__features_that_are_all_alike_give_the_commonest_class() -> None:
    x, y = np.ones((40, 4), np.float32), np.array([0] * 30 + [1] * 10)
    assert linear_probe(x, y, x, y, epochs=30) == 0.75
