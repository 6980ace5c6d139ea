"""The guard of the downloader, at work in a Python process of its own."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from curation.fetching.downloader import GUARD
from tests.curation.fetching.image_server import ImageServer

READ = """
import sys, urllib.request
for url in sys.argv[1:]:
    try:
        print(len(urllib.request.urlopen(url, timeout=5).read()))
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
"""


def read(tmp_path: Path, *urls: str, program: str = READ, **settings: Any) -> list[str]:
    """What each address gives in a guarded process: a number of bytes or an error."""
    mark = tmp_path / "mark"
    defaults = {"allow_private": False, "allow": [], "max_bytes": 100_000, "max_s": 5, "mark": str(mark)}
    environment = {
        **os.environ, "PYTHONPATH": str(GUARD), "PAS_FETCH_GUARD": json.dumps({**defaults, **settings}),
    }  # fmt: skip
    run = [sys.executable, "-c", program, *urls]
    out = subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout
    assert mark.exists()
    return out.splitlines()


def test_guard__private_addresses_are_refused_by_number_and_by_name(tmp_path: Path) -> None:
    with ImageServer() as server:
        urls = [server.url("1.jpg"), server.url("1.jpg").replace("127.0.0.1", "localhost")]
        refused = read(tmp_path, *urls, "http://[::1]:9/", "http://169.254.169.254/latest", "http://10.0.0.1:9/")
        allowed = read(tmp_path, *urls, allow_private=True)
    assert all("address of a private network refused" in line for line in refused)
    assert server.asked["1.jpg"] == 2 and all(line.isdecimal() for line in allowed)


def test_guard__a_redirect_into_the_private_network_is_refused(tmp_path: Path) -> None:
    with ImageServer() as public, ImageServer() as private:
        urls = [public.url("1.jpg"), public.url(f"to/{private.url('1.jpg')}"), public.url("to/ftp://127.0.0.1/a")]
        lines = read(tmp_path, *urls, allow=[["127.0.0.1", public.port]])
    assert lines[0].isdecimal() and "private network refused" in lines[1] and "only http and https" in lines[2]
    assert not private.asked


def test_guard__what_is_too_large_or_too_slow_is_ended(tmp_path: Path) -> None:
    with ImageServer() as server:
        urls = [server.url("1.jpg"), server.url("large.jpg"), server.url("slow.jpg")]
        lines = read(tmp_path, *urls, allow_private=True, max_s=0.5)
    assert lines[0].isdecimal()
    assert lines[1:] == ["OSError: larger than 100000 bytes", "TimeoutError: slower than 0.5 s"]


def test_guard__also_in_the_processes_that_are_started(tmp_path: Path) -> None:
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {READ!r}, sys.argv[1]])"
    assert "private network refused" in read(tmp_path, "http://127.0.0.1:9/", program=program)[0]


def test_guard__without_its_settings_nothing_runs_unguarded(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(GUARD), "PAS_FETCH_GUARD": '{"allow": 1}'}
    run = subprocess.run([sys.executable, "-c", "print(1)"], env=environment, capture_output=True, text=True)
    assert run.returncode == 70 and not run.stdout


@pytest.mark.parametrize(
    "address, public",
    [
        ("93.184.215.14", True), ("2606:2800:220:1:248:1893:25c8:1946", True), ("127.0.0.1", False),
        ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.1.1", False), ("169.254.169.254", False),
        ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("255.255.255.255", False), ("::1", False),
        ("fe80::1%eth0", False), ("fc00::1", False), ("::ffff:10.0.0.1", False), ("::ffff:93.184.215.14", True),
        ("64:ff9b::a00:1", False), ("64:ff9b::5db8:d70e", True), ("2002:a00:1::", False), ("::", False),
        ("fec0::1", False), ("::10.0.0.1", False), ("64:ff9b:1::a00:1", False), ("2a00:1450:4001:80b::200e", True),
    ],
)  # fmt: skip
def test_is_public__every_range(address: str, public: bool) -> None:
    spec = importlib.util.spec_from_file_location("guard", GUARD / "sitecustomize.py")
    assert spec is not None and spec.loader is not None
    guard = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(guard)
    assert guard.is_public(address) is public
