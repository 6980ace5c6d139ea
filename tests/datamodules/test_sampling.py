import numpy as np
import pytest

from datamodules.sampling import GlobalBatches, RankRows, epoch_order


def test_epoch_order__a_permutation_by_seed_and_epoch() -> None:
    order = epoch_order(50, seed=3, epoch=2)
    assert sorted(order) == list(range(50))
    assert (order == epoch_order(50, 3, 2)).all()
    assert (order != epoch_order(50, 3, 1)).any() and (order != epoch_order(50, 4, 2)).any()
    assert epoch_order(8, 0, 0).tolist() == [2, 7, 5, 1, 0, 4, 6, 3]  # stays so: checkpoints depend on it


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_global_batches__same_images_whatever_the_ranks(world_size: int) -> None:
    ranks = [list(GlobalBatches(20, 6, 0, rank, world_size)) for rank in range(world_size)]
    batches = [np.concatenate([rank[i][1] for rank in ranks]) for i in range(3)]
    np.testing.assert_array_equal(np.concatenate(batches), epoch_order(20, 0, 0)[:18])
    assert all(len(rank) == 3 == len(GlobalBatches(20, 6, 0)) for rank in ranks)


def test_global_batches__continues_at_its_place() -> None:
    sampler = GlobalBatches(20, 5, seed=1, place=lambda: (7, 2))
    expected = epoch_order(20, 1, 7).reshape(4, 5)[2:]
    assert [passes.tolist() for passes, _ in sampler] == [[7] * 5] * 2
    np.testing.assert_array_equal([rows for _, rows in sampler], expected)
    assert len(sampler) == 4


def test_global_batches__set_epoch_without_a_trainer() -> None:
    sampler = GlobalBatches(20, 5, seed=1)
    sampler.set_epoch(3)
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in sampler]), epoch_order(20, 1, 3))


@pytest.mark.parametrize(("rows", "world_size"), [(7, 2), (1, 3), (6, 3)])
def test_rank_rows__every_row_and_equal_shares(rows: int, world_size: int) -> None:
    shares = [list(RankRows(rows, rank, world_size)) for rank in range(world_size)]
    assert {len(share) for share in shares} == {len(RankRows(rows, 0, world_size))}
    assert {row for share in shares for row in share} == set(range(rows))


def test_epoch_order__every_image_at_every_place() -> None:
    orders = np.stack([epoch_order(8, 0, epoch) for epoch in range(4000)])
    counts = np.stack([np.bincount(place, minlength=8) for place in orders.T])
    assert np.abs(counts / 500 - 1).max() < 0.2


def test_global_batches__others_are_left_out_in_each_epoch() -> None:
    sampler = GlobalBatches(10, 4, seed=0)
    left_out = set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        left_out |= set(range(10)) - set(np.concatenate([rows for _, rows in sampler]).tolist())
    assert left_out == set(range(10))


def test_rank_rows__no_rows() -> None:
    assert list(RankRows(0, 1, 2)) == [] and len(RankRows(0, 1, 2)) == 0
