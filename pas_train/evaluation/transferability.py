"""How well frozen features fit a labelled set, without training: LogME and NCTI. On arrays alone, without torch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

ROUNDS = 11
EPSILON = 1e-5
BLOCK_BYTES = 2**26  # of features that are held in float64 at a time
COMPONENTS = 64  # of NCTI's principal components; the largest 32 say how much the covariances shrink
LEAST_SHRINKAGE = 1e-10
TERMS = ("ncc", "seli", "vc")

Rule = Literal["fixed_point", "icml"]


def logme(features: np.ndarray, labels: np.ndarray, rule: Rule = "fixed_point", exact: bool = False) -> float:
    """Log evidence of a linear model of the labels, by class and image; higher is better.

    features [N, D], as they are, may be a memory map; labels [N] integers, or targets [N, C] of a regression. You et
    al. 2021: the fixed point of their journal paper, or the first paper's rule. exact: the fixed point leaves out
    the features' directions without variance, as the published code does; this adds their term.
    """
    if len(features) != len(labels):
        raise ValueError(f"{len(features)} rows of features but {len(labels)} labels")
    targets = np.asarray(labels, np.float64) if np.ndim(labels) == 2 else _one_hot(np.asarray(labels))
    squares, powers, rest = _projections(features, targets)
    if not squares.any():
        raise ValueError("LogME of features that are all zero is not defined; look at the backbone")
    icml = rule == "icml"
    count, dim = features.shape
    alpha, beta, lengths, errors = _evidence(squares, powers, rest, count, 1e-2 if icml else 1e-3)
    logs = np.log(alpha + beta * squares[:, None]).sum(axis=0)
    if exact or icml:
        logs += (dim - len(squares)) * np.log(alpha)
    quadratic = beta * (errors + icml * EPSILON) + alpha * (lengths + icml * EPSILON)
    evidence = dim * np.log(alpha) + count * np.log(beta) - logs - quadratic - count * np.log(2 * np.pi)
    return float((evidence / (2 * count)).mean())


def _evidence(
    squares: np.ndarray, powers: np.ndarray, rest: np.ndarray, count: int, tolerance: float
) -> tuple[np.ndarray, ...]:
    """Precisions of weights and noise that make the targets likeliest, and the two squared norms: [C] each."""
    alpha, beta, lengths, errors, ratio = (np.ones(len(rest)) for _ in range(5))
    moving = np.arange(len(rest))
    sigma = squares[:, None]
    for _ in range(ROUNDS):
        t, x2 = ratio[moving], powers[:, moving]
        gamma = (sigma / (sigma + t)).sum(axis=0)
        lengths[moving] = (sigma * x2 / (sigma + t) ** 2).sum(axis=0)
        errors[moving] = (x2 * (t / (sigma + t)) ** 2).sum(axis=0) + rest[moving]
        alpha[moving] = gamma / (lengths[moving] + EPSILON)
        beta[moving] = (count - gamma) / (errors[moving] + EPSILON)
        ratio[moving] = alpha[moving] / beta[moving]
        moving = moving[np.abs(ratio[moving] - t) / t > tolerance]
        if not len(moving):
            break
    return alpha, beta, lengths, errors


def _projections(features: np.ndarray, targets: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Squared singular values [K] of the features; of each target the squared parts along them [K, C], and the rest."""
    count, dim = features.shape
    if count <= dim:
        left, values, _ = np.linalg.svd(np.asarray(features, np.float64), full_matrices=False)
        squares, parts = values**2, (targets.T @ left).T
    else:
        gram, sums = np.zeros((dim, dim)), np.zeros((targets.shape[1], dim))
        for rows in _blocks(count, dim):
            block = np.asarray(features[rows], np.float64)
            gram += block.T @ block
            sums += targets[rows].T @ block
        squares, right = np.linalg.eigh(gram)
        kept = squares > 1e-20
        squares, right = squares[kept], right[:, kept]
        parts = (sums @ right).T / np.sqrt(squares)[:, None]
    powers = parts**2
    rest = np.asarray((targets * targets).sum(axis=0)) - powers.sum(axis=0)
    return squares, powers, rest.clip(min=0)


def _one_hot(labels: np.ndarray) -> Any:
    """Sparse [N, C] of the classes that there are."""
    from scipy.sparse import csr_array

    classes, codes = np.unique(labels, return_inverse=True)
    return csr_array((np.ones(len(codes)), (np.arange(len(codes)), codes)), shape=(len(codes), len(classes)))


def _blocks(count: int, dim: int) -> Iterator[slice]:
    step = max(1, BLOCK_BYTES // (8 * dim))
    return (slice(begin, begin + step) for begin in range(0, count, step))


def ncti(features: Sequence[np.ndarray], labels: np.ndarray) -> np.ndarray:
    """Scores [M] of the features of several models of one data set, in [-1, 2]; higher is better.

    Wang et al. 2023, as published code computes it. The score is relative: it says nothing about one model alone.
    """
    return combine_ncti([ncti_terms(one, labels) for one in features])


def combine_ncti(terms: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Scores [M] of several models by their terms, each scaled to [0, 1] over the models (0 where all are equal)."""
    ncc, seli, vc = (_scaled(np.array([one[name] for one in terms], np.float64)) for name in TERMS)
    return ncc + seli - vc


def _scaled(values: np.ndarray) -> np.ndarray:
    spread = np.ptp(values) if len(values) else 0.0
    return (values - values.min()) / spread if spread > 0 else np.zeros_like(values)


def ncti_terms(features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Of one model: `ncc`, `seli` and, better where it is smaller, `vc`.

    How sure a classifier by the nearest centre is of the right class, the nuclear norm of what tells the classes
    apart, and the logarithm of those of each class's posteriors. features [N, D] may be a memory map; labels [N].
    More images than classes are needed.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    classes, codes = np.unique(np.asarray(labels), return_inverse=True)
    if not 2 <= len(classes) < len(codes):
        raise ValueError(f"NCTI needs two classes or more, and more images: got {len(codes)} of {len(classes)} classes")
    low, variances = _components(features)
    shrinkage = max(float(np.exp(-variances[: COMPONENTS // 2].sum())), LEAST_SHRINKAGE)
    if shrinkage == LEAST_SHRINKAGE:
        model = LinearDiscriminantAnalysis(solver="svd")
    else:
        model = LinearDiscriminantAnalysis(solver="eigen", shrinkage=shrinkage)
    apart = model.fit_transform(low, codes)
    sure, spread = 0.0, 0.0
    for code in range(len(classes)):  # one class at a time: all posteriors of a large set are more than memory holds
        posteriors = model.predict_proba(low[codes == code])
        sure += float(posteriors[:, code].sum())
        spread += float(np.linalg.norm(posteriors, "nuc"))
    seli = float(np.linalg.norm(apart - apart.mean(axis=0), "nuc"))
    return {"ncc": sure / len(codes), "seli": seli, "vc": float(np.log(spread))}


def _components(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The features [N, K] along their principal components, K at most 64, and the variances, largest first."""
    count, dim = features.shape
    kept = min(COMPONENTS, count, dim)
    mean = np.zeros(dim)
    for rows in _blocks(count, dim):
        mean += np.asarray(features[rows], np.float64).sum(axis=0) / count
    if count <= dim:
        left, values, _ = np.linalg.svd(np.asarray(features, np.float64) - mean, full_matrices=False)
        return left[:, :kept] * values[:kept], values[:kept] ** 2 / (count - 1)
    gram, low = np.zeros((dim, dim)), np.empty((count, kept))
    for rows in _blocks(count, dim):
        block = np.asarray(features[rows], np.float64) - mean
        gram += block.T @ block
    squares, vectors = np.linalg.eigh(gram)
    squares, vectors = squares[::-1][:kept], vectors[:, ::-1][:, :kept]
    for rows in _blocks(count, dim):
        low[rows] = (np.asarray(features[rows], np.float64) - mean) @ vectors
    return low, squares.clip(min=0) / (count - 1)
