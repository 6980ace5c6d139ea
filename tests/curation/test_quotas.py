"""One sequence of admission: every prefix of it keeps the quotas."""

import time
from fractions import Fraction

import numpy as np
import pytest

from curation.quotas import Quotas, places_within


def admit(order: np.ndarray, concepts: np.ndarray, synthetic: np.ndarray, most: int | None, share: float | None):
    """By the definition: again and again the best image that may come in."""
    waiting, taken = order[::-1].tolist(), []
    part = None if share is None else Fraction(share).limit_denominator(10)

    def may(image: int) -> bool:
        full = most is not None and sum(concepts[other] == concepts[image] for other in taken) >= most
        made = sum(bool(synthetic[other]) for other in taken) + 1
        return not full and (part is None or not synthetic[image] or made <= part * (len(taken) + 1))

    while (image := next(filter(may, waiting), None)) is not None:
        waiting.remove(image)
        taken.append(image)
    return taken


@pytest.mark.parametrize("most", [None, 1, 3, 100])
@pytest.mark.parametrize("share", [None, 0.0, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_quotas__the_best_image_that_may_comes_in_next(seed: int, share: float | None, most: int | None) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 40))
    order, concepts = rng.permutation(count), rng.integers(0, 5, count)
    synthetic = rng.random(count) < rng.choice([0.2, 0.5, 1.0])
    quotas = Quotas(most, share)
    admitted = quotas.admission(order, concepts, synthetic)
    assert admitted.tolist() == admit(order, concepts, synthetic, most, share)
    assert bool(quotas) == (most is not None or share is not None)
    possible = quotas.most(concepts, synthetic)
    assert possible >= len(admitted)
    if most is None or share is None:
        assert possible == len(admitted)


def test_quotas__no_image() -> None:
    none = np.empty(0, np.int64)
    for quotas in (Quotas(), Quotas(2), Quotas(2, 0.5)):
        assert quotas.admission(none, none, np.empty(0, bool)).tolist() == []
        assert quotas.most(none, np.empty(0, bool)) == 0


def test_quotas__a_million_images_take_seconds() -> None:
    rng = np.random.default_rng(0)
    order, concepts, synthetic = rng.permutation(10**6), rng.integers(0, 5000, 10**6), rng.random(10**6) < 0.5
    began = time.process_time()
    admitted = Quotas(100, 0.4).admission(order, concepts, synthetic)
    assert time.process_time() - began < 5
    assert np.bincount(concepts[admitted]).max() == 100
    assert abs(synthetic[admitted].mean() - 0.4) < 1e-4


def test_quotas__wrong_values_are_named() -> None:
    Quotas(1, 0.0).check("key")
    for quotas, said in (
        (Quotas(0), r"key\.per_concept_max must be at least 1, or null, got 0"),
        (Quotas(None, 1.5), r"key\.synthetic_share must be in \[0, 1\], or null, got 1\.5"),
    ):
        with pytest.raises(ValueError, match=said):
            quotas.check("key")


def test_places_within__counts_earlier_rows_of_the_group() -> None:
    groups = np.array([2, 0, 2, 2, 0])
    assert places_within(groups).tolist() == [0, 0, 1, 2, 1]
    assert places_within(groups, np.array([5, 1, 4, 5, 0])).tolist() == [1, 1, 0, 2, 0]
    assert places_within(np.empty(0, np.int64)).tolist() == []
