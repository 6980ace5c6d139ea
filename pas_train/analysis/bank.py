"""Sets as banks of a k-NN classifier (SELECT's guidance of self-supervised features): which predicts labels best."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pas_train import curated
from pas_train.analysis.sets import NONE

NEIGHBOURS = (10, 20, 100, 200)
TEMPERATURE = 0.07


def match_classes(
    words: Sequence[str], classes: Sequence[str], vectors: Mapping[str, np.ndarray], limit: float
) -> np.ndarray:
    """int64 [C]: for each of a set's classes the query class that it stands for, or NONE.

    The same text, else the nearest by the texts' embeddings, where there are any, within a cosine distance of limit.
    """
    place = {name: number for number, name in enumerate(classes)}
    matched = np.array([place.get(word, NONE) for word in words], np.int64).reshape(-1)
    open_ones = [number for number, word in enumerate(words) if matched[number] == NONE and word in vectors]
    if open_ones and all(name in vectors for name in classes):
        rows = np.stack([vectors[words[number]] for number in open_ones])
        nearest, distance = curated.nearest_concepts(rows, np.stack([vectors[name] for name in classes]))
        matched[open_ones] = np.where(distance <= limit, nearest, NONE)
    return matched


def bank_accuracies(
    bank: np.ndarray, labels: np.ndarray, queries: np.ndarray, query_labels: np.ndarray, classes: int
) -> dict[str, Any]:
    """Accuracy of weighted k-NN (temperature .07) for each number of neighbours, and the share of classes in the bank.

    bank: unit [N, D] with labels [N]; queries: unit [M, D]. Larger k than bank images are left out.
    """
    from pas_train.evaluation.knn import knn_predict

    figures: dict[str, Any] = {"bank_images": len(bank), "classes": int(len(np.unique(labels))) / max(1, classes)}
    stored, truth, asked = (torch.from_numpy(np.ascontiguousarray(values)) for values in (bank, labels, queries))
    for k in (1, *NEIGHBOURS):
        if k <= len(bank):
            found = knn_predict(stored, truth, asked, k, TEMPERATURE if k > 1 else None).numpy()
            figures[f"knn{k}" if k > 1 else "knn"] = float((found == query_labels).mean())
    return figures
