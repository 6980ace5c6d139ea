"""The fetch stage: real downloads from a local server, by a small downloader and, where installed, by img2dataset."""

import dataclasses
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.fetching import downloader
from curation.fetching.rounds import read_rounds
from curation.session import Session
from curation.stage import Context, run_stage
from curation.stages.fetch import Fetch
from curation.stages.ingest import Index
from curation.workspace import Workspace
from datamodules.indexing import index_pool
from tests.conftest import free_port
from tests.curation.fetching import tiny_img2dataset
from tests.curation.fetching.image_server import ImageServer

TINY = f"{sys.executable} {tiny_img2dataset.__file__}"
REAL = shutil.which("img2dataset")
COMMANDS = [
    pytest.param(TINY, id="tiny"),
    pytest.param(REAL, id="img2dataset", marks=pytest.mark.skipif(REAL is None, reason="img2dataset is not on PATH")),
]


@pytest.fixture
def server() -> ImageServer:
    with ImageServer() as running:
        yield running


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[..., tuple[Fetch, Context]]:
    def make(*urls: str, workspace: str = "ws", **settings: object) -> tuple[Fetch, Context]:
        path = tmp_path / "table.parquet"
        licences = ["CC0"] * len(urls)
        pq.write_table(pa.table({"url": list(urls), "text": [f"of {u}" for u in urls], "license": licences}), path)
        defaults: dict = {
            "table": str(path), "command": TINY, "allow_private": True, "processes": 1, "threads": 4, "retries": 0,
            "samples_per_shard": 4,
        }  # fmt: skip
        stage = Fetch(**{**defaults, **settings})
        session = Session(accelerator="cpu")
        return stage, Context(Workspace(tmp_path / workspace), session, "x", "", None, stages={"fetch": stage})

    return make


def run(stage: Fetch, context: Context) -> dict[str, dict]:
    """Runs the stage and indexes its folder; url -> row."""
    stage.check(context)
    run_stage(stage, context)
    return {row["url"]: row for row in index_pool(context.workspace.stage_folder("fetch"), "fetched").to_pylist()}


@pytest.mark.parametrize("command", COMMANDS)
def test_fetch__every_address_is_a_row_with_its_provenance(
    server: ImageServer, fetch: Callable[..., tuple[Fetch, Context]], command: str
) -> None:
    good = [server.url(f"{number}.jpg") for number in range(6)]
    bad = {name: server.url(name) for name in ("none.jpg", "page.jpg", "forbidden.jpg", "large.jpg")}
    stage, context = fetch(*good, *bad.values(), command=command, max_bytes=100_000)
    rows = run(stage, context)
    assert rows.keys() == {*good, *bad.values()}
    for url in good:
        assert rows[url]["size"] and rows[url]["caption"] == f"of {url}" and rows[url]["licence"] == "CC0"
        assert rows[url]["status"] == "success" and rows[url]["opt_out"] is None
    failed = {name: rows[url] for name, url in bad.items()}
    assert all(row["size"] is None and row["licence"] == "CC0" for row in failed.values())
    assert "404" in failed["none.jpg"]["reason"] and "larger than 100000" in failed["large.jpg"]["reason"]
    assert failed["forbidden.jpg"]["opt_out"] is True and failed["page.jpg"]["status"] == "failed_to_resize"
    assert all("pas-train" in agent for agent in server.agents)
    record = context.workspace.stage_record("fetch")
    assert record is not None and record["summary"] == "6 of 10 addresses fetched; 1 opted out"


@pytest.mark.parametrize("command", COMMANDS)
def test_fetch__private_networks_are_refused(
    server: ImageServer, fetch: Callable[..., tuple[Fetch, Context]], command: str
) -> None:
    stage, context = fetch(server.url("1.jpg"), command=command, allow_private=False)
    with pytest.raises(RuntimeError, match=r"none of 1 addresses could be fetched .*private network refused"):
        run(stage, context)
    assert not server.asked


@pytest.mark.parametrize("command", COMMANDS)
def test_fetch__an_opt_out_is_a_setting(
    server: ImageServer, fetch: Callable[..., tuple[Fetch, Context]], command: str
) -> None:
    url = server.url("forbidden.jpg")
    assert run(*fetch(url, command=command, respect_opt_out=False))[url]["status"] == "success"


def test_fetch__later_runs_fetch_only_what_is_new(
    server: ImageServer, fetch: Callable[..., tuple[Fetch, Context]]
) -> None:
    old = [server.url(f"{number}.jpg") for number in range(5)]
    run(*fetch(*old))
    rows = run(*fetch(*old[2:], server.url("7.jpg"), server.url("8.jpg")))
    assert set(server.asked.values()) == {1} and len(server.asked) == 7
    assert rows[server.url("8.jpg")]["shard"].startswith("round-001/") and len(rows) == 7
    shutil.rmtree(fetch()[1].workspace.stage_folder("fetch") / "round-001")
    run(*fetch(*old[2:], server.url("7.jpg"), server.url("8.jpg")))
    assert server.asked["8.jpg"] == 2 and server.asked["0.jpg"] == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_fetch__goes_on_after_a_kill(fetch: Callable[..., tuple[Fetch, Context]], command: str) -> None:
    with ImageServer(latency_s=0.2) as server:
        urls = [server.url(f"{number}.jpg") for number in range(24)]
        stage, context = fetch(*urls, command=command, threads=2)
        folder = context.workspace.stage_folder("fetch") / "round-000"
        child = os.fork()
        if child == 0:
            run_stage(stage, context)
            os._exit(0)
        while not (folder / "00001_stats.json").exists():
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        time.sleep(0.5)
        before, done = sum(server.asked.values()), len(list(folder.glob("*_stats.json")))
        time.sleep(0.5)
        assert sum(server.asked.values()) == before and done < 6  # the downloader ended too
        rows = run(stage, context)
    assert len(rows) == 24 and all(row["status"] == "success" for row in rows.values())
    twice = sum(count - 1 for count in server.asked.values())
    assert twice <= 4 and set(server.asked.values()) <= {1, 2}  # the shard in flight


def test_fetch__a_downloader_that_fails_is_quoted(
    server: ImageServer, fetch: Callable[..., tuple[Fetch, Context]], tmp_path: Path
) -> None:
    program = tmp_path / "broken.py"
    program.write_text("print('no space left on device'); raise SystemExit(3)")
    stage, context = fetch(server.url("1.jpg"), command=f"{sys.executable} {program}")
    with pytest.raises(RuntimeError, match=r"code 3\) with 1 shards .* missing, and \d.* GB free .* no space left on"):
        run(stage, context)


def test_fetch__a_downloader_without_its_guard_is_ended(
    server: ImageServer, fetch: Callable[..., tuple[Fetch, Context]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloader, "GUARD_PATIENCE_S", 0.3)
    began = time.monotonic()
    stage, context = fetch(server.url("1.jpg"), command="sleep 60 #")
    with pytest.raises(RuntimeError, match="runs without the guard that keeps it off private networks"):
        run(dataclasses.replace(stage, command=f"{sys.executable} -I -c 'import time; time.sleep(60)'"), context)
    assert time.monotonic() - began < 10


def test_fetch__what_came_without_the_guard_is_thrown_away(
    server: ImageServer, fetch: Callable[..., tuple[Fetch, Context]]
) -> None:
    urls = [server.url(f"{number}.jpg") for number in range(5)]
    unguarded = TINY.replace(sys.executable, f"{sys.executable} -I")
    with pytest.raises(RuntimeError, match="runs without the guard"):
        run(*fetch(*urls, command=unguarded, allow_private=False))
    with pytest.raises(RuntimeError, match="none of 5 addresses could be fetched .*private network refused"):
        run(*fetch(*urls, allow_private=False))


def test_fetch__what_is_fetched_anew_is_indexed_anew(
    server: ImageServer, fetch: Callable[..., tuple[Fetch, Context]]
) -> None:
    stage, context = fetch(*(server.url(f"{number}.jpg") for number in range(6)))
    context.stages["index"] = Index()
    folder = context.workspace.stage_folder("fetch")

    def index() -> list[bool]:
        return [run_stage(each, context) for each in context.stages.values()]

    assert index() == [True, True] and index() == [False, False]
    (folder / "round-000" / "00000_stats.json").unlink()
    server.padding = 600  # the images are longer now: others lie elsewhere in the shard
    assert index() == [True, True] and index() == [False, False]
    for row in context.workspace.index.to_pylist():
        assert (folder / row["shard"]).read_bytes()[row["offset"] :].startswith(b"\xff\xd8")


def test_fetch__elsewhere_by_the_command_that_it_writes(
    server: ImageServer, fetch: Callable[..., tuple[Fetch, Context]]
) -> None:
    urls = [server.url(f"{number}.jpg") for number in range(5)]
    stage, context = fetch(*urls, command=None)
    with pytest.raises(RuntimeError, match=r"command is null, so the 5 addresses .*fetch-000\.sh holds"):
        run(stage, context)
    folder = context.workspace.stage_folder("fetch")
    (folder / "round-000").mkdir()
    assert os.system((folder / "fetch-000.sh").read_text().replace("img2dataset", TINY, 1)) == 0
    assert len(run(stage, context)) == 5


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"table": None}, "curation.fetch.table is None without a curation.search"),
        (
            {"command": "no-such-program"},
            "curation.fetch.command: 'no-such-program' is not installed; img2dataset wants",
        ),
        ({"resize_mode": "squash"}, "curation.fetch.resize_mode is 'squash'"),
        ({"threads": 0}, "curation.fetch.threads must be positive, got 0"),
        ({"user_agent_token": "who? me"}, r"curation.fetch.user_agent_token is 'who\? me'"),
        ({"workspace": "ws[1]"}, r"workspace: img2dataset cannot go on in .*ws\[1\]"),
    ],
)
def test_check__names_the_key(
    fetch: Callable[..., tuple[Fetch, Context]], settings: dict[str, object], message: str
) -> None:
    stage, context = fetch("http://a", **settings)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        stage.check(context)


def test_check__images_fetched_before_are_of_one_size(
    server: ImageServer, fetch: Callable[..., tuple[Fetch, Context]]
) -> None:
    run(*fetch(server.url("1.jpg")))
    stage, context = fetch(server.url("1.jpg"), image_size=256)
    with pytest.raises(ValueError, match="curation.fetch.image_size is 256, but the images"):
        stage.check(context)


@pytest.mark.parametrize("command", COMMANDS)
def test_fetch__an_outage_says_nothing_of_the_addresses(
    server: ImageServer, fetch: Callable[..., tuple[Fetch, Context]], command: str
) -> None:
    down = f"http://127.0.0.1:{free_port()}/2.jpg"
    stage, context = fetch(down, command=command)
    with pytest.raises(RuntimeError, match="none of 1 addresses could be reached"):
        run(stage, context)
    assert read_rounds(context.workspace.stage_folder("fetch")) == []
    run(*fetch(server.url("1.jpg"), command=command))
    assert run(*fetch(server.url("1.jpg"), down, command=command))[down]["status"] == "failed_to_download"  # one host
    rows = run(*fetch(server.url("1.jpg"), server.url("gone/2.jpg"), command=command))
    assert rows[server.url("gone/2.jpg")]["status"] == "failed_to_download"  # a server that answers is no outage
