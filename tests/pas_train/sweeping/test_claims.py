"""Who works at what: one at a time, and nobody for ever."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.files import read_json, write_json
from pas_train.sweeping import claims


def silent(folder: Path, seconds: float) -> None:
    """The newest claim has not been touched for so long."""
    path = max(folder.glob("claim-*.json"))
    os.utime(path, (time.time() - seconds,) * 2)


def elsewhere(folder: Path) -> None:
    """The newest claim is another machine's."""
    path = max(folder.glob("claim-*.json"))
    write_json(path, {**read_json(path), "machine": "another", "host": "far"})


def test_claim__once_at_a_time(tmp_path: Path) -> None:
    first = claims.claim(tmp_path)
    assert first is not None and claims.claim(tmp_path) is None
    assert claims.holder(tmp_path) == claims.Holder(claims.hostname(), os.getpid(), pytest.approx(0, abs=5))
    first.release()
    assert claims.holder(tmp_path) is None
    second = claims.claim(tmp_path)
    assert second is not None and second.number == 2
    assert not first.beat() and second.beat()


def test_claim__many_at_once_have_one_winner(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from pas_train.sweeping.claims import claim; "
        "time.sleep(max(0, float(sys.argv[2]) - time.time())); "
        "won = [number for number in range(40) if claim(Path(sys.argv[1]) / str(number))]; print(won); "
        "sys.stdout.flush(); sys.stdin.read()"
    )
    at = str(time.time() + 1.5)
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), at], stdin=-1, stdout=-1, text=True)
        for _ in range(4)
    ]
    won = [eval(process.stdout.readline()) for process in processes]  # type: ignore[union-attr]
    for process in processes:
        process.communicate()
    assert sorted(number for some in won for number in some) == list(range(40))


def test_claim__of_a_dead_process_of_this_machine_is_free_at_once(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from pas_train.sweeping.claims import claim; claim(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert claims.holder(tmp_path) is None
    taken = claims.claim(tmp_path)
    assert taken is not None and taken.number == 2


def test_claim__of_another_process_with_the_number_of_a_dead_one_is_free(tmp_path: Path) -> None:
    claims.claim(tmp_path)
    path = tmp_path / "claim-0001.json"
    write_json(path, {**read_json(path), "started": "1"})
    assert claims.holder(tmp_path) is None


def test_holder__program_of_a_dead_sweep_still_ends(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        taken = claims.claim(tmp_path)
        assert taken is not None
        taken.remember_child(process.pid)
        write_json(taken.path, {**taken.content, "pid": 1, "started": "0"})
        found = claims.holder(tmp_path)
        assert found is not None and found.ending and found.pid == process.pid
        process.kill()
    assert claims.holder(tmp_path) is None


def test_holder__program_that_was_gone_before_it_was_written_down_does_not_end(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # gone, but not forgotten
        taken = claims.claim(tmp_path)
        assert taken is not None
        taken.remember_child(process.pid)
    write_json(taken.path, {**taken.content, "pid": 1, "started": "0"})
    assert claims.holder(tmp_path) is None


def test_beat__disk_that_is_away_for_a_moment_is_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = claims.claim(tmp_path)
    assert taken is not None

    def away(*_: object) -> None:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(claims, "_newest", away)
    assert taken.beat()


def test_claim__of_another_machine_is_free_when_it_is_silent(tmp_path: Path) -> None:
    first = claims.claim(tmp_path)
    assert first is not None
    elsewhere(tmp_path)
    silent(tmp_path, claims.STALE_S - 20)
    found = claims.holder(tmp_path)
    assert found is not None and found.host == "far" and found.silent_s > claims.SILENT_S
    assert first.beat()
    found = claims.holder(tmp_path)
    assert found is not None and found.silent_s < 5
    silent(tmp_path, claims.STALE_S + 20)
    assert claims.claim(tmp_path) is not None
    assert not first.beat()  # it learns that it has lost it


def test_claim__on_a_disk_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert claims.claim(tmp_path) is not None and claims.claim(tmp_path) is None
    assert [path.name for path in tmp_path.iterdir()] == ["claim-0001.json"]


def test_holder__claim_that_is_being_written(tmp_path: Path) -> None:
    (tmp_path / "claim-0001.json").touch()
    assert claims.claim(tmp_path) is None
    silent(tmp_path, claims.STALE_S + 20)
    assert claims.claim(tmp_path) is not None


def test_now__is_the_disks_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away: Callable[[], float] = lambda: 0.0  # noqa: E731
    monkeypatch.setattr(time, "time", away)
    assert claims.now(tmp_path) > 1e9 and not list(tmp_path.iterdir())
