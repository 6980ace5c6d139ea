"""What a tile of similarities says: sure pairs are joined, doubtful ones are handed back."""

from collections.abc import Iterator

import numpy as np
import torch

from curation.components import Components
from curation.rounding import INTEGERS, Limits, ordered_integers

# Places of two rows, int64 [n] each; None where there are more doubtful pairs than room, and the scan has ended.
Doubtful = tuple[np.ndarray, np.ndarray] | None

# Similarities of rows with a hit that are looked at together, at first and at most, and hits that are held against the
# groups: of copies of copies nearly all are joined after the first few.
FIRST_SLICE, SLICE, MANY = 2**20, 2**24, 2**16


def scan_compiled(
    product: torch.Tensor, top: int, first: int, limits: Limits, groups: Components, room: int | None
) -> Iterator[Doubtful]:
    """Joins the sure pairs of a tile above the diagonal and yields the doubtful ones that are not joined yet.

    product: [A, B] of the CPU, of rows top... with rows first...; room: doubtful pairs after which to give up. What
    the caller joins between two yields is not looked at again. By the compiled kernel.
    """
    assert groups.kernels is not None
    bits = ordered_integers(product) if limits.ordered else product.view(INTEGERS[product.dtype])
    left, right = (np.empty(room or 4 * bits.shape[1], np.int64) for _ in range(2))
    begin = 0
    while begin < len(bits):
        begin, count = groups.kernels.scan(
            bits.numpy(), top, first, limits.possible, limits.certain, begin, groups.parents, left, right
        )
        if room is not None and begin < len(bits):
            yield None
            return
        yield left[:count].copy(), right[:count].copy()


def scan_tensor(
    product: torch.Tensor, top: int, first: int, limits: Limits, groups: Components, room: int | None
) -> Iterator[Doubtful]:
    """The same on any device, in torch: only rows that hold a hit are read twice, and only hits leave the device."""
    device = product.device
    if first < top + len(product):  # on the diagonal
        rows, columns = (torch.arange(size, device=device) for size in product.shape)
        product = product.masked_fill(rows[:, None] + top >= columns[None] + first, -torch.inf)
    hit = (product.amax(dim=1) >= limits.floor).nonzero().squeeze(1)
    begin = 0
    step, most = (max(1, size // product.shape[1]) for size in (FIRST_SLICE, SLICE))
    while begin < len(hit):
        part = hit[begin : begin + step]
        begin, step = begin + step, min(2 * step, most)
        values = product[part]
        over = values >= limits.floor
        if int(over.sum()) > MANY:
            labels = torch.from_numpy(groups.labels()).to(device)
            over &= labels[part + top, None] != labels[None, first : first + product.shape[1]]
        row, column = over.nonzero(as_tuple=True)
        certain = (values[row, column] >= limits.ceiling).cpu().numpy()
        left, right = (part[row] + top).cpu().numpy(), (column + first).cpu().numpy()
        groups.join(left[certain], right[certain])
        left, right = left[~certain], right[~certain]
        if room is not None and len(left) > room:
            yield None
            return
        yield left, right
