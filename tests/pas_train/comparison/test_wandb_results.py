import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pas_train.comparison.wandb_results import read_project
from tests.local_server import Handler, LocalServer
from tests.pas_train.comparison.made import result

ROOT = Path(__file__).resolve().parents[3]
EMPTY = {"jobType": None, "commit": None, "readOnly": False, "description": None, "notes": None, "tags": [],
         "sweepName": None, "systemMetrics": "{}", "historyLineCount": 1, "historyKeys": None, "group": None,
         "heartbeatAt": None}  # fmt: skip


class Answers(Handler):
    """As much of the server's language as listing the runs of a project needs."""

    text = staticmethod(json.dumps)  # of a run's results

    def do_POST(self) -> None:
        asked = (
            json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}") if "graphql" in self.path else {}
        )
        if "runs(" in asked.get("query", ""):
            self.server.owner.filters.append(json.loads(asked["variables"]["filters"]))
            after = int(asked["variables"].get("cursor") or -1)
            data = {"project": {"internalId": "1", "runCount": 3, "readOnly": False, "runs": self.page(after + 1)}}
        else:
            viewer = {"id": "1", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
            data = {"viewer": viewer}
        text = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def page(self, place: int) -> dict:
        """One run a page; the last one has no results yet."""
        summary = {"results": self.text(result(seed=place))} if place < 2 else {"train/loss": 1.0}
        node = EMPTY | {
            "id": str(place), "projectId": "1", "name": f"run{place}", "displayName": f"run{place}",
            "state": "finished", "createdAt": f"2026-01-0{place + 1}T00:00:00Z",
            "user": {"name": "me", "username": "me"},
            "config": json.dumps({"model": {"value": {"init_args": {"temperature": 0.2}}}}),
            "summaryMetrics": json.dumps(summary),
        }  # fmt: skip
        return {
            "edges": [{"node": node, "cursor": str(place)}],
            "pageInfo": {"endCursor": "0", "hasNextPage": place < 2},
        }


class DamagedAnswers(Answers):
    text = staticmethod(lambda content: json.dumps(content)[:100])


def read_from(server: LocalServer, home: Path) -> "subprocess.CompletedProcess[str]":
    """Reads a project in a process of its own."""
    server.filters = []  # type: ignore[attr-defined]
    code = (
        "from pas_train.comparison.wandb_results import read_project\n"
        "for r in read_project('me/pas?group=food&tag=final'): print(r.place, r.run, r.modified, r.recipe)"
    )
    environment = {**os.environ, "WANDB_BASE_URL": f"http://127.0.0.1:{server.port}", "WANDB_API_KEY": "k" * 40,
                   "HOME": str(home)}  # fmt: skip
    environment.pop("WANDB_MODE", None)
    line = [sys.executable, "-c", code]
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_read_project__damaged_results_are_named(tmp_path: Path) -> None:
    with LocalServer(DamagedAnswers) as server:
        done = read_from(server, tmp_path)
    assert "ValueError: wandb:me/pas/run0: its results are damaged" in done.stderr


def test_read_project__one_question_a_page_reads_all_results(tmp_path: Path) -> None:
    with LocalServer(Answers) as server:
        done = read_from(server, tmp_path)
    assert done.returncode == 0, done.stderr
    told = [f"wandb:me/pas/run{seed} {result(seed=seed)['run']}" for seed in range(2)]
    assert [line[: len(start)] for line, start in zip(done.stdout.splitlines(), told, strict=True)] == told
    assert "{'model.temperature': 0.2}" in done.stdout
    assert server.filters == [{"group": "food", "tags": {"$in": ["final"]}}] * 3


@pytest.mark.parametrize("address", ["me/pas?colour=red", "", "a/b/c"])
def test_read_project__a_wrong_address_is_told_before_anything_is_asked(address: str) -> None:
    with pytest.raises(ValueError, match="write wandb:ENTITY/PROJECT"):
        read_project(address)


def test_read_project__without_a_key_is_told(tmp_path: Path) -> None:
    known = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment = {**known, "HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    done = subprocess.run(
        [sys.executable, "-m", "pas_train", "compare", "wandb:me/pas"], cwd=ROOT, env=environment, capture_output=True,
        text=True, stdin=subprocess.DEVNULL, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1 and "there is no key" in done.stderr and "Traceback" not in done.stderr
