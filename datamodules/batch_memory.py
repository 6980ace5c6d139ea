"""Shared memory in which loading processes hand their batches over, used again and again.

Fresh shared memory costs a loading process more than writing to it: the kernel clears every page, both processes map
it, and each tensor takes a connection of its own between them.
"""

import itertools
import math
import os
import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

_numbers = itertools.count()
_known: "weakref.WeakValueDictionary[int, BatchMemory]" = weakref.WeakValueDictionary()  # of this process, by number


def shared_bytes(*shape: int) -> Tensor:
    """A uint8 tensor in fresh memory that processes share, as torch's own collate functions have it."""
    storage = torch.UntypedStorage._new_shared(math.prod(shape))
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


def lent(memory: "BatchMemory | None", *shape: int) -> "Loan":
    """A uint8 tensor for a batch: in a worker in memory that the training sees, which spares a copy of the batch."""
    if get_worker_info() is None:
        return Loan(torch.empty(shape, dtype=torch.uint8))
    return Loan(shared_bytes(*shape)) if memory is None else memory.lend(*shape)


class BatchMemory:
    """The memory of the batches of one iterator, some pieces for each of its workers.

    A piece is used again when nothing in the training's process refers to its last batch any more, neither the tensor
    nor a view of it: whoever keeps a batch keeps its pixels. Where all pieces are held, fresh memory is taken.

    Args:
        workers: Loading processes.
        pieces: Of each, at most; they are made when they are needed.
    """

    def __init__(self, workers: int, pieces: int) -> None:
        self.number, self.process = next(_numbers), os.getpid()
        # Batches are counted for each piece, from 1 on. What is told here is the number of the last that was let go;
        # a number and no flag, as a batch may be let go of late, or twice where a process was forked while it lived.
        self.let_go = torch.zeros(workers, pieces, dtype=torch.int64).share_memory_()
        self.received: dict[tuple[int, int], np.ndarray] = {}  # the training's view of the pieces, uint8 [bytes]
        self._made: list[Tensor] = []  # a worker's own pieces, uint8 [bytes]
        self._given: list[int] = []  # number of the last batch in each
        _known[self.number] = self

    def lend(self, *shape: int) -> "Loan":
        """Memory uint8 of a shape for the batch that this worker makes."""
        info = get_worker_info()
        assert info is not None
        size, free = math.prod(shape), self.let_go[info.id].tolist()
        for piece, given in enumerate(self._given):
            if free[piece] == given and self._made[piece].nbytes >= size:
                return self._loan(info.id, piece, shape, known=True)
        if len(self._made) == len(free):
            return Loan(shared_bytes(*shape))
        self._made.append(shared_bytes(size))
        self._given.append(0)
        return self._loan(info.id, len(self._made) - 1, shape, known=False)

    def _loan(self, worker: int, piece: int, shape: tuple[int, ...], known: bool) -> "Loan":
        self._given[piece] += 1
        memory = self._made[piece]
        return Loan(
            memory[: math.prod(shape)].view(shape),
            (self.number, worker, piece, self._given[piece]),
            None if known else memory,
        )


class Loan:
    """A tensor for a batch, in the memory that a worker lent to it; without a place in memory of its own.

    place: numbers of the memory, of worker, piece and batch. first: the whole piece, where the training has not seen
    it yet.
    """

    def __init__(self, tensor: Tensor, place: tuple[int, int, int, int] | None = None, first: Tensor | None = None):
        self.tensor, self.place, self.first = tensor, place, first

    def batch(self, name: str, rest: dict[str, Any]) -> Any:
        """The batch of this tensor under a name, and of others, which are small: in a worker as a parcel."""
        return {name: self.tensor, **rest} if get_worker_info() is None else Parcel(name, self, rest)


class Parcel:
    """A batch on its way from a worker: pickled as such, a dictionary of tensors where it arrives.

    name: of the tensor that is on loan. rest: the others, which are small.
    """

    def __init__(self, name: str, loan: Loan, rest: dict[str, Any]) -> None:
        self.name, self.loan, self.rest = name, loan, rest

    def __reduce__(self) -> tuple[Any, ...]:
        plain = {key: value.numpy() if isinstance(value, Tensor) else value for key, value in self.rest.items()}
        if self.loan.place is None:
            return _unpack, (self.name, self.loan.tensor, plain)
        return _receive, (self.name, self.loan.place, tuple(self.loan.tensor.shape), self.loan.first, plain)


def _unpack(name: str, tensor: Tensor | None, plain: dict[str, Any]) -> dict[str, Any]:
    tensors = {key: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for key, v in plain.items()}
    return {name: tensor, **tensors}


def _receive(
    name: str, place: tuple[int, int, int, int], shape: tuple[int, ...], first: Tensor | None, plain: dict[str, Any]
) -> dict[str, Any]:
    """In the training: a tensor over the piece, which is let go of when the last reference to it ends."""
    number, worker, piece, batch = place
    memory = _known.get(number)
    if memory is None:  # the iterator has ended, and nobody waits for the batch
        return _unpack(name, None, plain)
    if first is not None:
        memory.received[worker, piece] = first.numpy()
    pixels = memory.received[worker, piece][: math.prod(shape)].reshape(shape)
    told = memory.let_go.numpy()[worker]
    # The tensor and its views keep this array alive, and nothing else does.
    weakref.finalize(pixels, _let_go, told, piece, batch, memory.process).atexit = False
    return _unpack(name, torch.from_numpy(pixels), plain)


def _let_go(told: np.ndarray, piece: int, batch: int, process: int) -> None:
    if os.getpid() == process and told[piece] < batch:  # a forked process ends with copies of what the training holds
        told[piece] = batch
