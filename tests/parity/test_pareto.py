"""Fronts against pymoo's non-dominated sorting of the negated scores."""

from pathlib import Path

import numpy as np
import pytest

from curation.pareto import pareto_fronts

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.mark.parametrize("name", ["uniform", "correlated", "ties", "one_column_constant"])
def test_pareto_fronts__stored_fronts(name: str) -> None:
    stored = np.load(FIXTURES / f"pareto_{name}.npz")
    np.testing.assert_array_equal(pareto_fronts(stored["scores"]), stored["front"])
