"""How close every image comes to the nearest test image."""

import numpy as np
import torch

from curation.arrays import like, to_numpy


def max_similarity(
    embeddings: np.ndarray, test_embeddings: np.ndarray, block: int = 4096
) -> tuple[np.ndarray, np.ndarray]:
    """(float32 [N] highest cosine, int64 [N] index of that test image), exact over all test images.

    embeddings: unit float32 [N, D]; test_embeddings: unit float32 [T, D]. Equal similarities go to the smaller index.
    Works in blocks of `block` x `block` products. Raises ValueError for no test image, other widths or NaN.
    """
    pool, tests = _checked(embeddings, "embeddings"), _checked(test_embeddings, "test_embeddings")
    if not len(tests):
        raise ValueError("test_embeddings is empty: there is no test image to screen against")
    if len(pool) and pool.shape[1] != tests.shape[1]:
        raise ValueError(f"embeddings have {pool.shape[1]} dimensions, test_embeddings {tests.shape[1]}")
    best = torch.full((len(pool),), -torch.inf)
    index = torch.zeros(len(pool), dtype=torch.int64)
    for first in range(0, len(pool), block):
        rows = slice(first, first + block)
        for start in range(0, len(tests), block):
            value, place = (pool[rows] @ tests[start : start + block].T).max(dim=1)
            better = value > best[rows]
            best[rows] = torch.where(better, value, best[rows])
            index[rows] = torch.where(better, place + start, index[rows])
    return like(best.numpy(), embeddings), like(index.numpy(), embeddings)


def _checked(embeddings: np.ndarray, name: str) -> torch.Tensor:
    array = torch.as_tensor(np.ascontiguousarray(to_numpy(embeddings), dtype=np.float32))
    if array.ndim != 2:
        raise ValueError(f"{name} must be [N, D], got shape {tuple(array.shape)}")
    if not bool(torch.isfinite(array).all()):
        raise ValueError(f"{name} holds NaN or infinite values in {int((~torch.isfinite(array).all(1)).sum())} rows")
    return array
