"""NNCLR's loss against stored values of the paper's formula, and of VISSL's average with columns."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pas_train.losses import nnclr_loss

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.mark.parametrize(("columns", "expected"), [(False, "loss_rows"), (True, "loss_rows_and_columns")])
def test_nnclr_loss__mean_of_two_directions(columns: bool, expected: str) -> None:
    stored = {name: torch.from_numpy(value) for name, value in np.load(FIXTURES / "nnclr_loss.npz").items()}
    support, temperature = stored["support_set"], float(stored["temperature"])
    first = nnclr_loss(support[stored["nn0"]], stored["p1"], temperature, symmetric_columns=columns)
    second = nnclr_loss(support[stored["nn1"]], stored["p0"], temperature, symmetric_columns=columns)
    assert ((first + second) / 2).item() == pytest.approx(float(stored[expected]), abs=1e-6)
