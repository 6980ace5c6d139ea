import itertools

import numpy as np
import pytest

from datamodules.image_source import ImageSource, JoinedSources
from datamodules.mixing import Group, MixedBatches, apportion, make_groups


class Numbers(ImageSource):
    """Images by number, some of them synthetic."""

    def __init__(self, count: int, synthetic: int = 0) -> None:
        self.count, self.generated = count, synthetic

    def __len__(self) -> int:
        return self.count

    def read(self, row: int) -> np.ndarray:
        return np.zeros((1, 1, 3), np.uint8)

    def describe(self, row: int) -> str:
        return str(row)

    def synthetic(self) -> np.ndarray:
        return np.arange(self.count) < self.generated


def epochs(sampler: MixedBatches, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(passes, rows) of some epochs, one after another."""
    parts = []
    for epoch in range(count):
        sampler.set_epoch(epoch)
        parts += list(sampler)
    passes, rows = zip(*parts, strict=True)
    return np.concatenate(passes), np.concatenate(rows)


def test_make_groups__weights_are_shares() -> None:
    source = JoinedSources([Numbers(10), Numbers(30)])
    groups = make_groups(source, [3, 1], None)
    assert [group.share for group in groups] == [0.75, 0.25]
    assert groups[1].rows.tolist() == list(range(10, 40))


def test_make_groups__synthetic_share_within_the_parts() -> None:
    source = JoinedSources([Numbers(10, synthetic=4), Numbers(30, synthetic=10), Numbers(5)])
    told = [(group.rows[0], len(group.rows), group.share) for group in make_groups(source, [1, 1, 2], 0.5)]
    assert told == [(4, 6, 0.125), (20, 20, 0.125), (40, 5, 0.25), (0, 4, 0.25), (10, 10, 0.25)]
    whole = make_groups(source, None, 0.2)
    assert [(len(group.rows), group.share) for group in whole] == [(31, 0.8), (14, 0.2)]
    assert [len(group.rows) for group in make_groups(source, None, 1)] == [14]


def test_make_groups__a_kind_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"data\.synthetic_share is 0\.5, but data\.source has no synthetic image"):
        make_groups(Numbers(8), None, 0.5)
    with pytest.raises(ValueError, match=r"data\.source: number 2 of the list has a weight, but no image"):
        make_groups(JoinedSources([Numbers(8), Numbers(0)]), [1, 1], None)
    tiny = JoinedSources([Numbers(8), Numbers(8)])
    with pytest.raises(ValueError, match=r"data\.source: a share of 0\.01 of 16 images an epoch is none"):
        MixedBatches(make_groups(tiny, [99, 1], None), 16, 4, 0)


@pytest.mark.parametrize(
    ("shares", "total", "numbers"),
    [([0.5, 0.25, 0.25], 8, [4, 2, 2]), ([1, 1, 1], 10, [4, 3, 3]), ([0.7, 0.3], 10, [7, 3]), ([1, 9], 3, [0, 3])],
)
def test_apportion__whole_numbers(shares: list[float], total: int, numbers: list[int]) -> None:
    assert apportion(shares, total).tolist() == numbers


def test_mixed_batches__shares_and_even_coverage() -> None:
    groups = [Group(np.arange(7), 0.6), Group(np.arange(7, 40), 0.4)]
    sampler = MixedBatches(groups, 43, 4, seed=3)  # 10 batches an epoch: 24 of 7 rows, 16 of 33
    passes, rows = epochs(sampler, 12)
    assert len(rows) == 480 and [(part < 7).sum() for part in rows.reshape(12, 40)] == [24] * 12
    shown = np.bincount(rows, minlength=40)
    assert np.ptp(shown[:7]) <= 1 and np.ptp(shown[7:]) <= 1
    # A row's passes count up from 0, and no showing of a row is drawn twice.
    assert all(sorted(passes[rows == row]) == list(range(shown[row])) for row in range(40))


def test_mixed_batches__a_function_of_seed_and_epoch_on_any_number_of_ranks() -> None:
    groups = [Group(np.arange(5), 0.5), Group(np.arange(5, 25), 0.5)]
    alone = MixedBatches(groups, 24, 6, 1, 0, 1)
    pair = [MixedBatches(groups, 24, 6, 1, rank, 2) for rank in range(2)]
    for epoch in (5, 0):
        for sampler in (alone, *pair):
            sampler.set_epoch(epoch)
        for whole, one, two in zip(alone, *pair, strict=True):
            np.testing.assert_array_equal(whole, np.concatenate([one, two], axis=1))
    other = MixedBatches(groups, 24, 6, 2, 0, 1)
    assert any((a[1] != b[1]).any() for a, b in zip(alone, other, strict=True))


def test_mixed_batches__continues_in_the_middle_of_an_epoch() -> None:
    groups = [Group(np.arange(5), 0.3), Group(np.arange(5, 25), 0.7)]
    whole = MixedBatches(groups, 30, 6, 1)
    whole.set_epoch(4)
    resumed = MixedBatches(groups, 30, 6, 1)
    resumed.place = lambda: (4, 2)
    for one, two in zip(itertools.islice(whole, 2, None), resumed, strict=True):
        np.testing.assert_array_equal(one, two)


def test_mixed_batches__epoch_of_some_images_covers_all_in_turn() -> None:
    passes, rows = epochs(MixedBatches([Group(np.arange(30), 1.0)], 10, 5, seed=0), 6)
    assert sorted(rows[:30]) == list(range(30)) and sorted(rows[30:]) == list(range(30))
    assert passes.tolist() == [0] * 30 + [1] * 30 and rows[:30].tolist() != rows[30:].tolist()
