"""Counts of prototypes against ones made by hand."""

import math

import numpy as np
import pytest

from pas_train.protosim.usage import SHARED, SOME, UNUSED, count_usage, images_behind, kinds, log_chance, random_splits

# Sets of four images, and the prototypes of their tokens; token 0 is the class token.
OF_SET = np.array([0, 0, 1, 1])
ASSIGNED = np.array([[0, 1, 1], [0, 0, 2], [0, 3, 3], [4, 3, 0]], np.uint16)
PARTS = [(OF_SET[:3], ASSIGNED[:3]), (OF_SET[3:], ASSIGNED[3:])]


def test_count_usage__an_image_counts_once_for_a_prototype() -> None:
    usage = count_usage(PARTS, 6, 2)
    assert usage.images.tolist() == [[2, 2], [1, 0], [1, 0], [0, 2], [0, 1], [0, 0]]
    assert usage.tokens.tolist() == [[3, 2], [2, 0], [1, 0], [0, 3], [0, 1], [0, 0]]
    assert usage.class_tokens.tolist() == [[2, 1], [0, 0], [0, 0], [0, 0], [0, 1], [0, 0]]
    assert usage.sizes.tolist() == [2, 2]


def test_kinds__shared_exclusive_unused() -> None:
    kind = kinds(count_usage(PARTS, 6, 2).images, [2, 2])
    assert kind.tolist() == [SHARED, 0, 0, 1, 1, UNUSED]
    assert images_behind(PARTS, kind, 2).tolist() == [2, 2]
    assert images_behind(PARTS, kind, 2, class_only=True).tolist() == [0, 1]


def test_kinds__purity_counts_images_as_shares_of_their_sets() -> None:
    images = np.array([[9, 1], [90, 1], [5, 5]])
    assert kinds(images, [100, 100], 0.9).tolist() == [0, 0, SHARED]
    # Of a set of ten, one image is as much as ten of a hundred.
    assert kinds(images, [100, 10], 0.9).tolist() == [SHARED, 0, 1]
    assert kinds(images, [100, 10]).tolist() == [SHARED, SHARED, SHARED]


def test_kinds__of_three_sets_some_may_lack_it() -> None:
    images = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 4], [0, 0, 0]])
    assert kinds(images, [9, 9, 9]).tolist() == [SOME, SHARED, 2, UNUSED]


def test_random_splits__keep_sizes_and_totals() -> None:
    usage = count_usage(PARTS, 6, 2)
    splits = list(random_splits(PARTS, 6, usage.sizes, 8, 0))
    assert all(split.sum(axis=1).tolist() == usage.images.sum(axis=1).tolist() for split in splits)
    assert len({split.tobytes() for split in splits}) > 1
    again = list(random_splits(PARTS, 6, usage.sizes, 8, 0))
    assert all((one == other).all() for one, other in zip(splits, again, strict=True))


def test_random_splits__agree_with_the_chance_of_one_set() -> None:
    assigned = np.array([[0]] * 3 + [[1]] * 7)
    parts = [(np.repeat([0, 1], 5), assigned)]
    alone = np.mean([split[0, 1] == 0 for split in random_splits(parts, 2, np.array([5, 5]), 3000, 1)])
    chance = math.comb(5, 3) / math.comb(10, 3)
    assert 10 ** log_chance(3, 5, 10) == pytest.approx(chance)
    assert alone == pytest.approx(chance, abs=0.015)
