import os
import re
import resource
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.files import atomic, fingerprint, read_json, sha256_file, within, write_json


def test_atomic__an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    with atomic(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_atomic__a_kill_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    child = os.fork()
    if child == 0:
        with atomic(path) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert path.read_text() == "old"
    with atomic(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"


def write_bytes(path: Path) -> None:
    path.write_bytes(bytes(100_000))


def write_parquet(path: Path) -> None:
    pq.write_table(pa.table({"number": list(range(100_000))}), path, compression=None)


@pytest.mark.parametrize("write", [write_bytes, write_parquet])
def test_atomic__a_full_disk_is_told_with_the_folder(tmp_path: Path, write: Callable[[Path], None]) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match=f"^{re.escape(str(tmp_path))} has no room for file .*: free space"):
            with atomic(tmp_path / "file") as temporary:
                write(temporary)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_atomic__nothing_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "file.txt"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_atomic__a_reader_sees_one_whole_or_the_other(tmp_path: Path) -> None:
    path, texts = tmp_path / "file.txt", ("a" * 100_000, "b" * 50_000)
    path.write_text(texts[0])
    child = os.fork()
    if child == 0:
        for number in range(60):
            with atomic(path) as temporary:
                temporary.write_text(texts[number % 2])
        os._exit(0)
    seen = set()
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        seen.add(path.read_text())
    assert seen <= set(texts)


def test_atomic__file_and_folder_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed, flush = [], os.fsync

    def listen(descriptor: int) -> None:
        renamed = (tmp_path / "a").exists()
        flushed.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), renamed))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", listen)
    with atomic(tmp_path / "a") as temporary:
        temporary.write_text("whole")
    assert flushed == [(False, False), (True, True)]


def test_sha256_file__of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_json__letters_and_paths_whatever_the_locale(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"é": Path("x/日本")})
    assert read_json(tmp_path / "a.json") == {"é": "x/日本"}
    assert (tmp_path / "a.json").read_bytes().isascii()


def test_json__there_and_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [1, None]})
    assert read_json(tmp_path / "a.json") == {"a": [1, None]}
    assert read_json(tmp_path / "missing.json") is None


def test_fingerprint__ignores_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})


def test_within__workspace_prefix() -> None:
    assert within("workspace:scenes/test", Path("runs/x")) == Path("runs/x/scenes/test")
    assert within("/data/test", Path("runs/x")) == Path("/data/test")
