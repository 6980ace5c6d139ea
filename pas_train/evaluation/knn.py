"""k-nearest-neighbour classification by cosine similarity, exact and in blocks."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pas_train.evaluation.protocol import Figures, Protocol, Subject

Array = TypeVar("Array", np.ndarray, Tensor)

TEST_BLOCK = 1024
TRAIN_BLOCK = 65536  # a block of similarities is 256 MiB, whatever the size of the data sets


@dataclass
class Knn(Protocol):
    """k nearest neighbours by cosine similarity.

    Args:
        k: Neighbours (paper: 1).
    """

    k: int = 1

    def names(self) -> list[str]:
        """One figure."""
        return ["knn"]

    def judge(self, subject: Subject) -> dict[str, Figures]:
        """Top-1 of the test images by the training images' labels."""
        train, test = subject.features()
        predicted = knn_predict(train.values, train.labels, test.values, k=min(self.k, len(train.values)))
        return {"knn": {"top1": float((predicted == test.labels).mean())}}


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
    bank = F.normalize(torch.as_tensor(train).float(), dim=1)
    queries = F.normalize(torch.as_tensor(test).float(), dim=1)
    labels = torch.as_tensor(train_labels)
    classes, codes = torch.unique(labels, return_inverse=True)
    codes = codes.to(bank.device)
    predicted = [
        _vote(*_nearest(block, bank, k), codes, len(classes), temperature) for block in queries.split(TEST_BLOCK)
    ]
    result = classes[torch.cat(predicted).to(classes.device)] if predicted else classes[:0]
    return result.cpu().numpy() if isinstance(train_labels, np.ndarray) else result


def _nearest(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Similarities [B, k] and bank rows [B, k], most similar first, equal ones by row."""
    best: Tensor | None = None
    rows: Tensor | None = None
    for start in range(0, len(bank), TRAIN_BLOCK):
        similarities = queries @ bank[start : start + TRAIN_BLOCK].T
        values, found = _top(similarities, min(k, similarities.shape[1]))
        found = found + start
        if best is not None and rows is not None:  # earlier blocks first, so that equal values keep the smaller row
            values, found = torch.cat([best, values], dim=1), torch.cat([rows, found], dim=1)
            values, order = _top(values, min(k, values.shape[1]))
            found = found.gather(1, order)
        best, rows = values, found
    assert best is not None and rows is not None  # the bank is not empty: k <= its length
    return best, rows


def _top(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row in falling order; of equal ones the smaller column (topk alone promises no order)."""
    if k == 1:
        columns = values.argmax(dim=1, keepdim=True)  # the first of equal ones
        return values.gather(1, columns), columns
    top = values.topk(min(k + 1, values.shape[1]), dim=1).values
    tied = (top[:, 1:] == top[:, :-1]).any(dim=1)
    columns = values.topk(k, dim=1).indices
    if tied.any():
        columns[tied] = values[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
    return values.gather(1, columns), columns


def _vote(similarities: Tensor, rows: Tensor, codes: Tensor, classes: int, temperature: float | None) -> Tensor:
    neighbours = codes[rows]  # [B, k]
    if rows.shape[1] == 1:
        return neighbours[:, 0]
    weights = torch.ones_like(similarities)
    if temperature is not None:
        # Divided by the nearest's weight: the same vote, and no overflow at small temperatures.
        weights = ((similarities - similarities[:, :1]) / temperature).exp()
    votes = torch.zeros(len(rows), classes, dtype=torch.float64, device=rows.device)
    votes.scatter_add_(1, neighbours, weights.double())
    own = votes.gather(1, neighbours)  # the votes of each neighbour's class; the first largest is the nearest's
    return neighbours.gather(1, own.argmax(dim=1, keepdim=True))[:, 0]
