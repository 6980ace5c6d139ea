import gc
import os
from collections import deque
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from datamodules.batch_memory import BatchMemory, _let_go, lent
from datamodules.loaders import HELD, QuietLoader, as_it_is

BYTES, AHEAD = 50_000, 2


class Numbered(Dataset):
    """Batch n is n in every byte."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.memory: BatchMemory | None = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Any:
        loan = lent(self.memory, 2, BYTES)
        loan.tensor.fill_(number)
        return loan.batch("views", {"number": torch.tensor([number]), "said": ["a page"]})


def loader(count: int, workers: int = 1, **options: Any) -> QuietLoader:
    options = {"prefetch_factor": AHEAD, **options} if workers else options
    return QuietLoader(Numbered(count), batch_size=None, num_workers=workers, collate_fn=as_it_is, **options)


def right(batch: dict[str, Any]) -> bool:
    return bool((batch["views"] == batch["number"]).all())


def test_batch__is_a_plain_dictionary_of_tensors() -> None:
    (alone,), (sent,) = list(loader(1, 0)), list(loader(1))
    for batch in (alone, sent):
        assert list(batch) == ["views", "number", "said"] and batch["said"] == ["a page"]
        assert batch["views"].shape == (2, BYTES) and batch["views"].dtype == torch.uint8
        assert batch["number"].dtype == torch.int64 and right(batch)


def test_memory__is_used_again_where_batches_are_let_go_of() -> None:
    places = [batch["views"].data_ptr() for batch in loader(60)]
    assert len(set(places)) <= AHEAD + HELD


@pytest.mark.parametrize("held", [1, AHEAD + HELD, 12])
def test_memory__is_not_used_again_while_a_batch_is_held(held: int) -> None:
    kept: deque[dict[str, Any]] = deque(maxlen=held)
    for batch in loader(60, workers=2):
        kept.append(batch)
        assert all(right(one) for one in kept)
    assert len({one["views"].data_ptr() for one in kept}) == held


@pytest.mark.parametrize("part", [lambda v: v[0], lambda v: v.numpy()[1], lambda v: v.flatten()[4:].view(torch.int16)])
def test_memory__is_not_used_again_while_a_part_of_a_batch_is_held(part: Any) -> None:
    batches = iter(loader(60))
    first = next(batches)
    kept, copy = part(first["views"]), np.array(part(first["views"]))
    del first
    for _ in batches:
        assert (np.asarray(kept) == copy).all()


def test_memory__goes_on_with_workers_that_persist() -> None:
    batches = loader(20, workers=2, persistent_workers=True)
    places = set()
    for stop in (3, None, 1, None):  # epochs, some of which end early
        for number, batch in enumerate(batches):
            assert int(batch["number"]) == number and right(batch)
            places.add(batch["views"].data_ptr())
            if number == stop:
                break
    assert len(places) <= 2 * (AHEAD + HELD)


def test_memory__two_iterators_of_one_loader_have_their_own() -> None:
    batches = loader(20)
    first, second = iter(batches), iter(batches)
    kept = [next(first), next(second), next(first)]
    kept += [*second, *first]
    assert all(right(batch) for batch in kept) and len(kept) == 40


def test_memory__outlives_its_loader_while_a_batch_is_held() -> None:
    kept = [batch for batch in loader(4)]
    gc.collect()
    assert all(right(batch) for batch in kept) and [int(batch["number"]) for batch in kept] == [0, 1, 2, 3]


def test_memory__is_the_same_in_a_process_that_is_spawned() -> None:
    memory = BatchMemory(1, 2)
    sent = ForkingPickler.loads(ForkingPickler.dumps(memory))
    memory.let_go[0, 1] = 7
    assert sent.number == memory.number and sent.let_go.tolist() == [[0, 7]]


def test_memory__a_batch_that_is_let_go_of_late_frees_no_later_one() -> None:
    told = np.array([0])
    _let_go(told, 0, 2, os.getpid())
    _let_go(told, 0, 1, os.getpid())
    assert told.tolist() == [2]


def test_memory__a_forked_process_lets_go_of_nothing() -> None:
    batches = iter(loader(40))
    batch = next(batches)
    child = os.fork()
    if child == 0:
        batch.clear()
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    for _ in range(20):
        next(batches)
    assert right(batch)


def test_memory__a_worker_that_is_killed_leaves_none_behind() -> None:
    batches = loader(40)
    iterator = iter(batches)
    kept = next(iterator)
    os.kill(iterator._workers[0].pid, 9)
    with pytest.raises((RuntimeError, ConnectionResetError), match="DataLoader worker|reset by peer"):
        list(iterator)  # torch tells the one or the other, by where the worker was
    assert all(right(batch) for batch in batches) and right(kept)
