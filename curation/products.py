"""Products of rows on this machine: which type is fast, and how exact they are."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch


@contextmanager
def exact_products() -> Iterator[None]:
    """Sums in float32 on a GPU, and float32 products without TF32, as the bounds of the errors suppose."""
    cuda = torch.backends.cuda.matmul
    precision, reduced = torch.get_float32_matmul_precision(), cuda.allow_fp16_reduced_precision_reduction
    torch.set_float32_matmul_precision("highest")
    cuda.allow_fp16_reduced_precision_reduction = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        cuda.allow_fp16_reduced_precision_reduction = reduced


def as_float32(block: np.ndarray) -> torch.Tensor:
    """A float32 tensor of some rows (a memory map is read-only, which torch does not take)."""
    writable = block.dtype == np.float32 and block.flags.writeable
    return torch.from_numpy(block if writable else np.array(block, dtype=np.float32, order="C"))


@cache
def bfloat16_is_faster() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32, by trying both; at most about a second.

    Both give the same groups, so the answer changes the time only.
    """
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(512 + 4096, 512, generator=generator)
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = factors.to(dtype).split([512, 4096])
        tries = []
        for _ in range(3):
            start = time.perf_counter()
            torch.mm(a, b.T)
            tries.append(time.perf_counter() - start)
            if sum(tries) > 0.4:
                break
        seconds[dtype] = min(tries)
    # The scan of half as many bytes is faster, the second look at doubtful pairs costs a little.
    return seconds[torch.bfloat16] < seconds[torch.float32]
