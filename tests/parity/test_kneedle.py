"""Knees against kneed on the same curves (S = 1, convex, decreasing)."""

from pathlib import Path

import numpy as np
import pytest

from curation.selection import knee_cut

STORED = np.load(Path(__file__).parents[1] / "fixtures" / "kneedle.npz")


@pytest.mark.parametrize("curve", range(3))
def test_knee_cut__stored_knees(curve: int) -> None:
    x, y = STORED["x"][curve], STORED["y"][curve]
    # A front per point of the curve: x says how many images are removed by then, y is the score of all of them.
    sizes = np.diff(x, prepend=0).astype(int)
    assert (sizes > 0).all() and sizes.sum() == x[-1]
    fronts, scores = np.repeat(np.arange(len(x)), sizes), np.repeat(y, sizes)[:, None]
    cut, knees = knee_cut(scores, fronts, sensitivity=float(STORED["S"]))
    assert knees == [STORED["knee"][curve]] and cut == STORED["knee"][curve]
