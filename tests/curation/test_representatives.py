import hashlib

import numpy as np
import pyarrow as pa
import pytest

import curation.representatives
from curation.representatives import draw_one

KEYS = [f"{number:02d}.jpg" for number in range(50)]
GROUPS = np.arange(50) * 7 % 9


@pytest.mark.parametrize("names", [KEYS, pa.array(KEYS)])
def test_draw_one__smallest_hash_of_each_group(names: list[str] | pa.Array, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curation.representatives, "NAMES", 8)
    eligible = np.arange(50) % 4 > 0
    chosen = draw_one(GROUPS, names, 3, eligible)
    for group in range(9):
        members = [row for row in range(50) if GROUPS[row] == group and eligible[row]]
        lowest = min(members, key=lambda row: hashlib.sha256(f"3:{KEYS[row]}".encode()).digest())
        assert set(chosen[GROUPS == group].tolist()) == {lowest}


def test_draw_one__only_the_best_come_into_the_draw() -> None:
    worse = np.where(np.arange(50) < 40, 5, -2)
    for seed in range(5):
        chosen = draw_one(GROUPS, KEYS, seed, worse=worse)
        assert (chosen >= 40).all() and (GROUPS[chosen] == GROUPS).all()
        eligible = np.arange(50) < 40  # what is out of question does not count as the best
        assert (draw_one(GROUPS, KEYS, seed, eligible, worse) == draw_one(GROUPS, KEYS, seed, eligible)).all()


def test_draw_one__nobody_eligible_and_no_rows() -> None:
    assert draw_one(np.array([5, 5, 2]), KEYS[:3], 0, np.array([False, False, True])).tolist() == [-1, -1, 2]
    assert draw_one(np.empty(0, np.int64), [], 0).tolist() == []
