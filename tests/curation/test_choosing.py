"""A cut or a size over the sequence of admission."""

from itertools import pairwise

import numpy as np
import pytest

from curation.choosing import choose, size_within
from curation.quotas import Quotas

ORDER = np.array([4, 0, 3, 1, 5, 2])  # first removed first


def test_choose__without_quotas_a_cut_and_its_size_are_the_same() -> None:
    admitted = ORDER[::-1]
    for cut in range(7):
        by_cut, by_size = choose(ORDER, admitted, cut), choose(ORDER, admitted, size=6 - cut)
        assert np.flatnonzero(by_cut.keep).tolist() == sorted(ORDER[cut:].tolist())
        np.testing.assert_array_equal(by_cut.keep, by_size.keep)
        assert by_cut.cut == by_size.cut == cut
        assert not by_cut.over.any() and not by_size.over.any()


def test_choose__what_a_quota_keeps_out_is_told_from_what_the_order_removes() -> None:
    admitted = np.array([2, 1, 3, 4])  # 5 and 0 are over
    by_cut = choose(ORDER, admitted, 2)  # 4 and 0 go
    assert np.flatnonzero(by_cut.keep).tolist() == [1, 2, 3] and by_cut.cut == 2
    assert np.flatnonzero(by_cut.over).tolist() == [5]
    by_size = choose(ORDER, admitted, size=2)
    assert np.flatnonzero(by_size.keep).tolist() == [1, 2] and by_size.cut == 3
    assert np.flatnonzero(by_size.over).tolist() == [5]


@pytest.mark.parametrize("seed", range(20))
def test_choose__sizes_are_nested_and_the_cut_is_one_of_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    order, concepts, synthetic = rng.permutation(60), rng.integers(0, 6, 60), rng.random(60) < 0.5
    admitted = Quotas(5, 0.4).admission(order, concepts, synthetic)
    sets = [choose(order, admitted, size=size).keep for size in range(len(admitted) + 1)]
    assert all((small <= large).all() and large.sum() == small.sum() + 1 for small, large in pairwise(sets))
    for cut in range(0, 61, 5):
        kept = choose(order, admitted, cut).keep
        np.testing.assert_array_equal(kept, sets[kept.sum()])
        # The same as the quotas on what is above the cut alone.
        above = Quotas(5, 0.4).admission(order[cut:], concepts, synthetic)
        assert set(above.tolist()) == set(np.flatnonzero(kept).tolist())


def test_size_within__names_the_setting() -> None:
    assert size_within(3, 3, "--size") == 3
    with pytest.raises(
        ValueError, match=r"--size is 4, but only 3 images are left after the earlier stages and the quo"
    ):
        size_within(4, 3, "--size", Quotas(1))
