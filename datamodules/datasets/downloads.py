"""Official archives: fetched, checked and unpacked. A kill loses nothing that was fetched. Imports no torch."""

import fcntl
import hashlib
import http.client
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BLOCK_BYTES = 2**20
TRIES = 4
WAIT_S = 5.0  # before the second try, twice as long before each further one
SAY_EVERY_S = 10.0
HIDDEN = ".downloads"  # below the root: archives that are on their way, and what is being unpacked


@dataclass(frozen=True)
class Archive:
    """A tar file at its official address.

    makes: a file or folder that is there once it is unpacked, relative to where it is unpacked.
    """

    address: str
    md5: str
    makes: str

    @property
    def file(self) -> str:
        """Its name."""
        return self.address.partition("?")[0].rpartition("/")[2]


def download(archive: Archive, root: Path, key: str, wait_s: float = WAIT_S) -> None:
    """Fetches and unpacks an archive below a root, unless another process has done so meanwhile.

    What was fetched before a kill or a lost connection is kept. Raises OSError or ValueError naming the yaml key.
    """
    hidden = root / HIDDEN
    hidden.mkdir(parents=True, exist_ok=True)
    with _alone(hidden / f"{archive.file}.lock"):
        if (root / archive.makes).exists():
            return
        path = hidden / archive.file
        if not path.exists():
            _fetch(archive, path, key, wait_s)
        print(f"{'download':<12}{archive.file}: unpacking into {root}", flush=True)
        _unpack(path, root, key)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time, so that the ranks of a training fetch once."""
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(archive: Archive, path: Path, key: str, wait_s: float) -> None:
    part = path.with_name(f"{path.name}.part")
    advice = f"run the same command again, which goes on from there, or put {archive.address} to {path} yourself"
    for attempt in range(TRIES):
        if attempt:
            time.sleep(wait_s * 2 ** (attempt - 1))
        try:
            _go_on(archive, part)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500 or attempt == TRIES - 1:
                raise OSError(f"{key}: {archive.address} answered {error.code} {error.reason}; {advice}") from error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            if attempt == TRIES - 1:
                raise OSError(f"{key}: {archive.address} could not be fetched ({error}); {advice}") from error
    with open(part, "rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != archive.md5:
        part.unlink()
        raise ValueError(
            f"{key}: {archive.address} gave a file with the MD5 {found}, its publisher's has {archive.md5}; it was "
            "deleted: run the same command again"
        )
    os.replace(part, path)


def _go_on(archive: Archive, part: Path) -> None:
    """Appends to what is there; begins again where the server cannot go on."""
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(archive.address, headers={"User-Agent": "pas_train"})
    if done:
        request.add_header("Range", f"bytes={done}-")
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:  # all of it is there
            return
        raise
    with answer:
        if answer.status != 206:
            done = 0
        length = answer.headers.get("Content-Length")
        whole = done + int(length) if length else None
        with open(part, "ab" if done else "wb") as file:
            _copy(answer, file, archive.file, done, whole)
    if whole is not None and part.stat().st_size < whole:
        raise ConnectionError(f"the connection ended after {part.stat().st_size:,} of {whole:,} bytes")


def _copy(answer: http.client.HTTPResponse, file: object, name: str, done: int, whole: int | None) -> None:
    start = said = time.monotonic()
    begun = done
    size = f" of {whole / 1e9:.2f} GB" if whole else " GB"
    print(f"{'download':<12}{name}: {done / 1e9:.2f}{size}", flush=True)
    while block := answer.read(BLOCK_BYTES):
        file.write(block)  # type: ignore[attr-defined]
        done += len(block)
        now = time.monotonic()
        if now - said > SAY_EVERY_S:
            rate = (done - begun) / (now - start)
            left = f", {(whole - done) / rate / 60:.0f} min left" if whole else ""
            print(f"{'download':<12}{name}: {done / 1e9:.2f}{size}, {rate / 1e6:.1f} MB/s{left}", flush=True)
            said = now


def _unpack(path: Path, root: Path, key: str) -> None:
    """Unpacks beside the archive, then moves what is whole into the root and deletes the archive."""
    beside = path.with_name(f"{path.name}.unpacked")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        with tarfile.open(path) as tar:
            tar.extractall(beside, filter="data")
    except (tarfile.TarError, EOFError) as error:
        path.unlink()
        raise ValueError(
            f"{key}: {path} is no whole tar file ({error}) and was deleted: run the same command again"
        ) from error
    for entry in sorted(beside.iterdir()):
        try:
            os.replace(entry, root / entry.name)
        except OSError as error:
            raise OSError(
                f"{key}: {root / entry.name} is there, but not whole, and is not overwritten ({error.strerror}): move "
                "it away and run the same command again; the archive is kept"
            ) from error
    shutil.rmtree(beside)
    path.unlink()
