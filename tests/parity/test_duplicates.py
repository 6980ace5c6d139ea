"""Groups against the components of a brute-force graph; labels are arbitrary there, so partitions are compared."""

from pathlib import Path

import numpy as np
import pytest

from curation.duplicates import duplicate_groups

STORED = np.load(Path(__file__).parents[1] / "fixtures" / "duplicates.npz")


@pytest.mark.parametrize("k", [None, 307])
def test_duplicate_groups__stored_components(k: int | None) -> None:
    groups = duplicate_groups(STORED["embeddings"], threshold=float(STORED["threshold"]), k=k)
    component = STORED["component"]
    np.testing.assert_array_equal(groups[:, None] == groups[None], component[:, None] == component[None])
