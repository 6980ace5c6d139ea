"""k-NN against scikit-learn (k = 1, cosine) and a weighted vote (k = 20, temperature 0.07)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pas_train.evaluation.knn import knn_predict

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.mark.parametrize(("name", "k", "temperature"), [("k1", 1, None), ("k20_t007", 20, 0.07)])
def test_knn_predict__stored_predictions(name: str, k: int, temperature: float | None) -> None:
    stored = np.load(FIXTURES / "knn.npz")
    arrays = stored["train"], stored["train_labels"], stored["test"]
    predicted = knn_predict(*arrays, k=k, temperature=temperature)
    np.testing.assert_array_equal(predicted, stored[f"predicted_{name}"])
    tensors = knn_predict(*(torch.from_numpy(array) for array in arrays), k=k, temperature=temperature)
    np.testing.assert_array_equal(tensors.numpy(), predicted)
