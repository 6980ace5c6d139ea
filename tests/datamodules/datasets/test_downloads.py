import hashlib
import io
import tarfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest

from datamodules.datasets.downloads import Archive, download
from datamodules.datasets.known_set import KnownSet
from datamodules.datasets.names import parse_name
from datamodules.datasets.registry import known_set
from tests.datamodules.datasets import small_trees
from tests.local_server import Handler, LocalServer


class Answers(Handler):
    """Serves one file; goes on where it is asked to; the first `cut` answers break off in the middle."""

    def do_GET(self) -> None:
        owner = self.server.owner
        with owner.lock:
            owner.asked.append(self.headers.get("Range"))
            cut = len(owner.asked) <= owner.cut
        if owner.status != 200:
            self.send_error(owner.status)
            return
        start = int(self.headers["Range"][len("bytes=") : -1]) if "Range" in self.headers and owner.ranges else 0
        body = owner.body[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)


class ArchiveServer(LocalServer):
    def __init__(self, body: bytes) -> None:
        super().__init__(Answers)
        self.body, self.cut, self.status, self.ranges = body, 0, 200, True
        self.asked: list[str | None] = []

    def archive(self, makes: str) -> Archive:
        digest = hashlib.md5(self.body).hexdigest()
        return Archive(f"http://127.0.0.1:{self.port}/food-101.tar.gz?download=1", digest, makes)

    def __enter__(self) -> Self:
        super().__enter__()
        return self


def packed(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    return buffer.getvalue()


@pytest.fixture
def body(tmp_path: Path) -> bytes:
    return packed(small_trees.save_food_101(tmp_path / "official"))


def from_server(server: ArchiveServer) -> KnownSet:
    archive = server.archive("food-101/meta/test.txt")
    return replace(known_set("food-101"), archives={"train": (archive,), "test": (archive,)})


def test_listing__is_downloaded_once(body: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    with ArchiveServer(body) as server:
        known = from_server(server)
        for split in ("test", "train"):
            name = parse_name(f"food-101:{root}?split={split}&download=true&partial=true", "key")
            assert len(known.listing(name, "key")) == (2 if split == "test" else 4)
        assert server.asked == [None]
    assert sorted(path.name for path in root.iterdir()) == [".downloads", "food-101"]
    assert [path.name for path in (root / ".downloads").iterdir()] == ["food-101.tar.gz.lock"]
    said = capsys.readouterr().out
    assert "download    food-101.tar.gz: 0.00 of " in said and f"food-101.tar.gz: unpacking into {root}" in said
    assert known_set("food-101").listing(parse_name(f"food-101:{root}/food-101?split=test&partial=true", "key"), "key")


def test_download__goes_on_where_the_connection_broke(body: bytes, tmp_path: Path) -> None:
    with ArchiveServer(body) as server:
        server.cut = 2
        download(server.archive("food-101"), tmp_path / "data", "key", wait_s=0)
        half = len(body) // 2
        assert server.asked == [None, f"bytes={half}-", f"bytes={half + (len(body) - half) // 2}-"]
    assert (tmp_path / "data/food-101/meta/test.txt").exists()


def test_download__goes_on_after_a_kill_and_begins_again_where_the_server_cannot(body: bytes, tmp_path: Path) -> None:
    for ranges in (True, False):
        root = tmp_path / str(ranges)
        part = root / ".downloads/food-101.tar.gz.part"
        part.parent.mkdir(parents=True)
        part.write_bytes(body[:100])
        with ArchiveServer(body) as server:
            server.ranges = ranges
            download(server.archive("food-101"), root, "key", wait_s=0)
            assert server.asked == ["bytes=100-"]
        assert (root / "food-101/meta/test.txt").exists()


def test_download__an_unpacking_that_was_killed_is_done_again(body: bytes, tmp_path: Path) -> None:
    hidden = tmp_path / ".downloads"
    (hidden / "food-101.tar.gz.unpacked/food-101/meta").mkdir(parents=True)
    (hidden / "food-101.tar.gz").write_bytes(body)
    with ArchiveServer(body) as server:
        download(server.archive("food-101/meta/test.txt"), tmp_path, "key")
        assert server.asked == []
    assert (tmp_path / "food-101/meta/test.txt").exists()


def test_download__overwrites_nothing(body: bytes, tmp_path: Path) -> None:
    small_trees.write(tmp_path / "food-101/mine.txt", "mine")
    with ArchiveServer(body) as server:
        archive = server.archive("food-101/meta/test.txt")
        with pytest.raises(
            OSError, match=r"key: .*food-101 is there, but not whole, .*: move it away and run the same"
        ):
            download(archive, tmp_path, "key")
        assert (tmp_path / "food-101/mine.txt").read_text() == "mine"
        (tmp_path / "food-101").rename(tmp_path / "mine")
        download(archive, tmp_path, "key")
        assert server.asked == [None] and (tmp_path / "food-101/meta/test.txt").exists()


def test_download__another_file_than_the_publishers(body: bytes, tmp_path: Path) -> None:
    with ArchiveServer(body) as server:
        archive = replace(server.archive("food-101"), md5="0" * 32)
        with pytest.raises(
            ValueError, match=r"key: http.* gave a file with the MD5 .*, its publisher's has 000.*again"
        ):
            download(archive, tmp_path, "key")
    assert [path.name for path in (tmp_path / ".downloads").iterdir()] == ["food-101.tar.gz.lock"]


@pytest.mark.parametrize("inside", ["", "food-101"])
def test_fetch__leaves_a_data_set_that_is_there(inside: str, body: bytes, tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        tar.extractall(tmp_path, filter="data")
    with ArchiveServer(body) as server:
        archives = {"test": (server.archive("food-101/meta/test.txt"),)}
        replace(known_set("food-101"), archives=archives).fetch(tmp_path / inside, "test", "key")
        assert server.asked == []


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (503, 4)])
def test_download__a_server_that_refuses(body: bytes, tmp_path: Path, status: int, asked: int) -> None:
    with ArchiveServer(body) as server:
        server.status = status
        with pytest.raises(OSError, match=rf"key: http.* answered {status} .*; run the same command again, .* or put "):
            download(server.archive("food-101"), tmp_path, "key", wait_s=0)
        assert len(server.asked) == asked


def test_download__nobody_there(tmp_path: Path) -> None:
    archive = Archive("http://127.0.0.1:9/food-101.tar.gz", "", "food-101")
    with pytest.raises(OSError, match=r"key: http://127.* could not be fetched .*run the same command again"):
        download(archive, tmp_path, "key", wait_s=0)


def test_download__two_at_once_fetch_once(body: bytes, tmp_path: Path) -> None:
    with ArchiveServer(body) as server:
        archive = server.archive("food-101")
        threads = [threading.Thread(target=download, args=(archive, tmp_path, "key")) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.asked == [None] and (tmp_path / "food-101").exists()
