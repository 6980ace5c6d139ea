"""k-NN of an evaluation beside its bare matrix products, in processor time; `pytest -m benchmark -s` shows figures.

PAS_QUERIES=25000 measures the goal's whole size, 75,000 x 25,000 x 768, in about two minutes.
"""

import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch

from pas_train.evaluation.knn import Knn
from pas_train.evaluation.neighbours import kernels, nearest
from tests.pas_train.evaluation.made import made_subject

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(900)]

BANK, WIDTH, CLASSES = 75_000, 768, 101
QUERIES = int(os.environ.get("PAS_QUERIES", 4096))


def cpu_seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


@pytest.fixture(scope="module")
def sets() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        (rng.standard_normal((count, WIDTH), dtype=np.float32), rng.integers(0, CLASSES, count))
        for count in (BANK, QUERIES)
    ]


def products(bank: np.ndarray, queries: np.ndarray) -> None:
    """The similarities alone, tile by tile into one place, which is the fastest way that we found."""
    tile = torch.empty(1024, 8192)
    for rows in torch.from_numpy(queries).split(1024):
        for part in torch.from_numpy(bank).split(8192):
            torch.mm(rows, part.T, out=tile[: len(rows)] if len(part) == 8192 else torch.empty(len(rows), len(part)))


@pytest.mark.parametrize("weighted", [[], [10, 20, 100, 200]])
def test_judge__within_1_3_of_the_bare_products(sets: list[Any], weighted: list[int]) -> None:
    kernels()
    nearest(np.eye(300, dtype=np.float32), np.eye(3, 300, dtype=np.float32), 200)  # compiled before
    subject, protocol = made_subject(*sets), Knn(weighted=weighted)
    ratios, bare = [], []
    for _ in range(1 if QUERIES > 10_000 else 3):
        bare.append(cpu_seconds(lambda: products(sets[0][0], sets[1][0])))
        ratios.append(cpu_seconds(lambda: protocol.judge(subject)) / bare[-1])
    told = f"k = 1{' and ' + str(weighted) if weighted else ''}"
    print(f"\n{BANK} x {QUERIES} x {WIDTH}, {told}: {median(ratios):.2f} of the products' {median(bare):.1f} s")
    assert median(ratios) <= 1.3
