"""Which prototypes each of several data sets uses: counts of images, and what they say.

Shapes: N images of all sets, T tokens of an image (the class token first), P prototypes, K sets.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SHARED, SOME, UNUSED = -1, -2, -3  # kinds of prototypes; from 0 on: exclusive to the set of that number
Part = tuple[np.ndarray, np.ndarray]  # int64 [n], the set of each image; integer [n, T], its prototypes


@dataclass(frozen=True)
class Usage:
    """images: int64 [P, K], images of a set with a token of a prototype; tokens: int64 [P, K], tokens; class_tokens:
    int64 [P, K], images whose class token has it; sizes: int64 [K], images of each set.
    """  # noqa: D205

    images: np.ndarray
    tokens: np.ndarray
    class_tokens: np.ndarray
    sizes: np.ndarray


def count_usage(parts: Iterable[Part], prototypes: int, sets: int) -> Usage:
    """The counts over all images."""
    images, tokens, heads = (np.zeros(prototypes * sets, np.int64) for _ in range(3))
    sizes = np.zeros(sets, np.int64)
    for of_set, assigned in parts:
        places = assigned.astype(np.int64) * sets + of_set[:, None]
        tokens += np.bincount(places.ravel(), minlength=len(tokens))
        heads += np.bincount(places[:, 0], minlength=len(heads))
        rows, used = pairs(assigned)
        images += np.bincount(used * sets + of_set[rows], minlength=len(images))
        sizes += np.bincount(of_set, minlength=sets)
    shape = (prototypes, sets)
    return Usage(images.reshape(shape), tokens.reshape(shape), heads.reshape(shape), sizes)


def pairs(assigned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows, prototypes), int64: each prototype once for every image that has it, of integers [n, T]."""
    ordered = np.sort(assigned.astype(np.int64), axis=1)
    first = np.ones(ordered.shape, bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    rows, columns = np.nonzero(first)
    return rows, ordered[rows, columns]


def kinds(images: np.ndarray, sizes: Sequence[int] | np.ndarray, purity: float = 1.0) -> np.ndarray:
    """int64 [P]: the number of the set that a prototype is exclusive to, SHARED, SOME or UNUSED.

    images: [P, K]. With purity 1 a prototype is exclusive if no image of another set has it. Below, if so large a
    share of it is one set's, each set's images counted as a share of the set, so that a large set weighs no more than
    a small one. SHARED: every set has it, and none so much; SOME: of more than two sets not all.
    """
    used = images > 0
    rates = images / np.maximum(np.asarray(sizes, float), 1)
    shares = rates / np.maximum(rates.sum(axis=1, keepdims=True), 1e-300)
    best = shares.argmax(axis=1)
    exclusive = (used.sum(axis=1) == 1) | (shares.max(axis=1) >= purity - 1e-9 if purity < 1 else False)
    kind = np.where(used.all(axis=1), SHARED, SOME)
    kind = np.where(exclusive, best, kind)
    return np.where(used.any(axis=1), kind, UNUSED).astype(np.int64)


def images_behind(parts: Iterable[Part], kind: np.ndarray, sets: int, class_only: bool = False) -> np.ndarray:
    """int64 [K]: images of each set with a token of a prototype that is exclusive to it."""
    count = np.zeros(sets, np.int64)
    for of_set, assigned in parts:
        own = kind[assigned[:, :1] if class_only else assigned] == of_set[:, None]
        count += np.bincount(of_set[own.any(axis=1)], minlength=sets)
    return count


def random_splits(
    parts: Iterable[Part], prototypes: int, sizes: np.ndarray, splits: int, seed: int
) -> Iterator[np.ndarray]:
    """Images [P, K] of each of several splits of all images at random into sets of the given sizes.

    What two sets without any difference would show: with fewer images, a set has fewer prototypes of its own.
    """
    sets, total = len(sizes), int(sizes.sum())
    of_set = np.repeat(np.arange(sets, dtype=np.int8), sizes)
    drawn = np.stack([np.random.default_rng([seed, split]).permutation(of_set) for split in range(splits)])
    counts = np.zeros((splits, prototypes * sets), np.int64)
    start = 0
    for _, assigned in parts:
        rows, used = pairs(assigned)
        for split in range(splits):
            members = drawn[split, start : start + len(assigned)][rows]
            counts[split] += np.bincount(used * sets + members, minlength=prototypes * sets)
        start += len(assigned)
    assert start == total
    yield from counts.reshape(splits, prototypes, sets)


def log_chance(images: int, size: int, total: int) -> float:
    """log10 of the chance that so many images, drawn at random from all sets, are all of one set of this size."""
    natural = math.lgamma(size + 1) - math.lgamma(size - images + 1)
    natural -= math.lgamma(total + 1) - math.lgamma(total - images + 1)
    return natural / math.log(10)


def summary(kind: np.ndarray, names: Sequence[str], behind: np.ndarray | None = None) -> dict[str, Any]:
    """The numbers of prototypes of each kind, and the images behind the exclusive ones."""
    counts = {"shared": int((kind == SHARED).sum()), "unused": int((kind == UNUSED).sum())}
    if len(names) > 2:
        counts["some"] = int((kind == SOME).sum())
    exclusive = {name: {"prototypes": int((kind == place).sum())} for place, name in enumerate(names)}
    for place, name in enumerate(names):
        if behind is not None:
            exclusive[name]["images"] = int(behind[place])
    return {**counts, "exclusive": exclusive}
