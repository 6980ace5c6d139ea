"""k-nearest-neighbour classification by cosine similarity, exact and in blocks."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pas_train.evaluation.metrics import RANKS, figures
from pas_train.evaluation.neighbours import nearest
from pas_train.evaluation.protocol import Figures, Protocol, Subject

Array = TypeVar("Array", np.ndarray, Tensor)

VOTES = 2**25  # of a block of images and classes: 256 MiB


@dataclass
class Knn(Protocol):
    """k nearest neighbours by cosine similarity.

    Args:
        k: Neighbours of the figure `knn`, with one vote each (paper: 1).
        weighted: Numbers of neighbours of further figures, such as `knn20`, whose votes are weighted by
            exp(cosine / temperature).
        temperature: Of those votes.
    """

    k: int = 1
    weighted: list[int] = field(default_factory=lambda: [10, 20, 100, 200])
    temperature: float = 0.07

    def __post_init__(self) -> None:
        """Raises ValueError for settings that mean nothing."""
        if self.k < 1 or any(k < 1 for k in self.weighted):
            raise ValueError(f"evaluation.knn: k and weighted must be 1 or more, got {self.k} and {self.weighted}")
        if len(set(self.weighted)) < len(self.weighted):
            raise ValueError(f"evaluation.knn.weighted names a number twice: {self.weighted}")
        if self.temperature <= 0:
            raise ValueError(f"evaluation.knn.temperature must be positive, got {self.temperature}")

    def names(self) -> list[str]:
        """`knn`, and one for each weighted vote."""
        return ["knn", *(f"knn{k}" for k in self.weighted)]

    def described(self) -> dict[str, dict[str, Any]]:
        """Each figure by its own settings, so that leaving one out does not change the others."""
        weighted = {f"knn{k}": {"k": k, "temperature": self.temperature} for k in self.weighted}
        return {"knn": {"k": self.k, "temperature": None}, **weighted}

    def judge(self, subject: Subject) -> dict[str, Figures]:
        """Of the test images by the training images' labels; one search serves all votes."""
        train, test = subject.sound_features()
        count = len(train.values)
        most = min(max(self.k, *self.weighted, 1), count)
        found = nearest(train.values, test.values, most, subject.device, f"k-NN {subject.progress}")
        labels = torch.from_numpy(train.labels)
        told = {}
        for name, one in self.described().items():
            ranked = _vote(*found, labels, subject.classes, min(one["k"], count), one["temperature"])
            told[name] = figures(ranked.cpu().numpy(), test.labels)
        return told


def knn_predict(train: Array, train_labels: Array, test: Array, k: int = 1, temperature: float | None = None) -> Array:
    """Label of each test row by a vote of its k most similar training rows; [T], the kind and dtype of train_labels.

    train [N, D], test [T, D]: embeddings, normalised here in float32; train_labels [N]: integers.
    Without a temperature each neighbour has one vote and ties go to the class of the nearest; with one the vote is
    exp(cosine / temperature). Equal similarities go to the smaller training row. The paper: k = 1.
    """
    if not 1 <= k <= len(train):
        raise ValueError(f"k must be between 1 and the number of training rows ({len(train)}), got {k}")
    if len(train) != len(train_labels):
        raise ValueError(f"{len(train)} training rows but {len(train_labels)} labels")
    if temperature is not None and temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    classes, codes = torch.unique(torch.as_tensor(train_labels), return_inverse=True)
    ranked = _vote(*nearest(train, test, k), codes, len(classes), k, temperature, ranks=1)
    result = classes[ranked[:, 0].to(classes.device)]
    return result.cpu().numpy() if isinstance(train_labels, np.ndarray) else result


def _vote(
    similarities: Tensor, rows: Tensor, labels: Tensor, classes: int, k: int, temperature: float | None,
    ranks: int = RANKS,
) -> Tensor:  # fmt: skip
    """Classes with most votes of the first k neighbours [T, K], most first: int64 [T, min(ranks, k)], -1 for none.

    Equal votes go to the class of the nearer neighbour.
    """
    labels = labels.to(rows.device)
    if k == 1:
        return labels[rows[:, :1]]
    block = max(1, VOTES // classes)
    counted = [
        _count(labels[rows[part, :k]], similarities[part, :k], classes, temperature, min(ranks, k))
        for part in _blocks(len(rows), block)
    ]
    return torch.cat(counted) if counted else rows[:, : min(ranks, k)]


def _count(neighbours: Tensor, similarities: Tensor, classes: int, temperature: float | None, ranks: int) -> Tensor:
    weights = torch.ones_like(similarities)
    if temperature is not None:
        # Divided by the nearest's weight: the same vote, and no overflow at small temperatures.
        weights = ((similarities - similarities[:, :1]) / temperature).exp()
    votes = torch.zeros(len(neighbours), classes, dtype=torch.float64, device=neighbours.device)
    votes.scatter_add_(1, neighbours, weights.double())
    ranked = []
    for _ in range(ranks):
        own, first = votes.gather(1, neighbours).max(dim=1, keepdim=True)  # of equal votes the first, the nearest's
        best = neighbours.gather(1, first)
        ranked.append(best.masked_fill(own < 0, -1))
        votes.scatter_(1, best, -1.0)  # counted
    return torch.cat(ranked, dim=1)


def _blocks(count: int, size: int) -> Iterator[slice]:
    return (slice(begin, begin + size) for begin in range(0, count, size))
