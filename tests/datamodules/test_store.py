import os
import pickle
from pathlib import Path

import pytest

from datamodules.store import ImageStore, StoreError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(5):
        (tmp_path / f"{number}.tar").write_bytes(bytes([number]) * 100 + bytes(range(100)))
    return tmp_path


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_read__bytes_of_a_place(folder: Path) -> None:
    store = ImageStore({"pool": folder, "one": folder / "1.tar"})
    assert store.read("pool", "2.tar", 98, 4) == b"\2\2\0\1"
    assert store.read("one", "1.tar", 0, 2) == b"\1\1"  # an input may be the shard itself
    assert store.read("pool", "2.tar", 200, 0) == b""


def test_read__as_few_files_open_as_told(folder: Path) -> None:
    before = open_files()
    store = ImageStore({"pool": folder}, max_open=2)
    for number in (0, 1, 2, 3, 4, 0, 1, 0):
        assert store.read("pool", f"{number}.tar", 0, 1) == bytes([number])
        assert open_files() - before <= 2
    store.close()
    assert open_files() == before
    assert store.read("pool", "3.tar", 0, 1) == b"\3"  # a closed store opens again
    del store
    assert open_files() == before


def test_read__most_recent_files_stay_open(folder: Path) -> None:
    store = ImageStore({"pool": folder}, max_open=2)
    for number in (0, 1, 0, 2):
        store.read("pool", f"{number}.tar", 0, 1)
    for number in (0, 1, 2):
        (folder / f"{number}.tar").unlink()
    assert store.read("pool", "0.tar", 0, 1) == b"\0" and store.read("pool", "2.tar", 0, 1) == b"\2"
    with pytest.raises(StoreError, match="1.tar is gone"):
        store.read("pool", "1.tar", 0, 1)


@pytest.mark.parametrize(("offset", "held"), [(150, 50), (200, 0), (10**6, 0)])
def test_read__a_shard_that_was_cut_is_named(folder: Path, offset: int, held: int) -> None:
    with pytest.raises(StoreError, match=f"4.tar holds {held} of the 51 bytes at offset {offset}"):
        ImageStore({"pool": folder}).read("pool", "4.tar", offset, 51)


def test_read__unknown_input_is_named(folder: Path) -> None:
    with pytest.raises(StoreError, match="'other'.*only pool, more"):
        ImageStore({"pool": folder, "more": folder}).read("other", "4.tar", 0, 1)


def test_store__pickled_without_its_files(folder: Path) -> None:
    store = ImageStore({"pool": folder}, max_open=3)
    store.read("pool", "1.tar", 0, 1)
    before = open_files()
    twin = pickle.loads(pickle.dumps(store))
    assert open_files() == before
    assert twin.read("pool", "1.tar", 99, 2) == b"\1\0" and twin.max_open == 3


def test_store__a_fork_opens_its_own_files(folder: Path) -> None:
    store = ImageStore({"pool": folder})
    store.read("pool", "1.tar", 0, 1)
    child = os.fork()
    if child == 0:
        good = store.read("pool", "1.tar", 99, 2) == b"\1\0"
        store.close()
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.read("pool", "1.tar", 100, 2) == b"\0\1"
