import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pas_train.evaluation import transferability
from pas_train.evaluation.transferability import combine_ncti, logme, ncti_terms


def clusters(seed: int, count: int, dim: int = 12, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    return rng.normal(size=(4, dim))[labels] + spread * rng.normal(size=(count, dim)), labels


def evidence(features: np.ndarray, target: np.ndarray, alpha: float, beta: float) -> float:
    """Log density of the target under a normal distribution with the covariance of the model, by its definition."""
    covariance = features @ features.T / alpha + np.eye(len(target)) / beta
    quadratic = target @ np.linalg.solve(covariance, target)
    return -0.5 * (quadratic + np.linalg.slogdet(covariance)[1] + len(target) * np.log(2 * np.pi))


@pytest.mark.parametrize("shape", [(60, 8), (20, 50)])
def test_logme__exact_is_the_largest_evidence_of_the_model(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=shape)
    target = features[:, :3].sum(axis=1) + rng.normal(size=shape[0])
    grid = np.exp(np.linspace(-6, 6, 61))
    best = max(evidence(features, target, alpha, beta) for alpha in grid for beta in grid) / shape[0]
    assert logme(features, target[:, None], exact=True) == pytest.approx(best, abs=0.005)


def test_logme__exact_differs_only_where_directions_have_no_variance() -> None:
    features, labels = clusters(0, 80)
    assert logme(features, labels, exact=True) == logme(features, labels)
    wide = np.pad(features, ((0, 0), (0, 3)))
    assert logme(wide, labels, exact=True) == pytest.approx(logme(features, labels))
    assert logme(wide, labels) != pytest.approx(logme(features, labels))


@pytest.mark.parametrize("score", [logme, lambda x, y: ncti_terms(x, y)["seli"], lambda x, y: ncti_terms(x, y)["ncc"]])
def test_scores__are_higher_for_classes_that_lie_apart(score) -> None:  # type: ignore[no-untyped-def]
    assert score(*clusters(0, 200, spread=0.3)) > score(*clusters(0, 200, spread=2.0))


def test_scores__blocks_of_a_memory_map_and_other_names_of_classes_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = clusters(0, 200)
    np.save(tmp_path / "features.npy", features.astype(np.float32))
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    whole = logme(features, labels), *ncti_terms(features, labels).values()
    monkeypatch.setattr(transferability, "BLOCK_BYTES", 8 * 12 * 7)
    parts = logme(mapped, 10 * labels - 3), *ncti_terms(mapped, 10 * labels - 3).values()
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_combine_ncti__of_one_model_or_of_equal_ones_is_zero() -> None:
    one = {"ncc": 0.5, "seli": 3.0, "vc": 1.0}
    assert combine_ncti([one]).tolist() == [0.0]
    better = {"ncc": 0.6, "seli": 4.0, "vc": 0.5}
    assert combine_ncti([one, better, one]).tolist() == [-1.0, 2.0, -1.0]


def test_scores__what_they_refuse() -> None:
    features, labels = clusters(0, 20)
    with pytest.raises(ValueError, match="all zero"):
        logme(np.zeros_like(features), labels)
    with pytest.raises(ValueError, match="20 rows of features but 19 labels"):
        logme(features, labels[1:])
    with pytest.raises(ValueError, match="more images: got 20 of 20 classes"):
        ncti_terms(features, np.arange(20))


def test_module__imports_no_torch() -> None:
    told = "import sys, pas_train.evaluation.transferability; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", told], check=False).returncode == 0
