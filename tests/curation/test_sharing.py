"""What a workspace takes of the one that it begins from, and that the other one never changes."""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest

import curation.sharing as sharing
from curation.concepts.bank import BankFiles
from curation.ledger import read_ledger
from curation.locking import WorkspaceLock, read_only
from curation.pipeline import Curation
from curation.session import Session
from curation.sharing import begin_from_base, from_base, taken_stages
from curation.stage import Context, Stage, run_stage
from curation.stages.concepts import Concepts
from curation.stages.embed import Copy, Embed, ImageText
from curation.stages.ingest import Ingest
from curation.stages.select import Select
from curation.workspace import Workspace
from tests.tiny import save_clip, save_descriptor, save_pool


@dataclass(frozen=True)
class Number(Stage):
    """Writes its value, once; keeps `made-*`."""

    name: ClassVar[str] = "ingest"
    keeps: ClassVar[tuple[str, ...]] = ("made-*",)
    value: int = 1

    def run(self, context: Context) -> dict[str, Any]:
        folder = context.workspace.stage_folder(self.name)
        (folder / "part-00000.npy").write_bytes(b"%d" % self.value)
        (folder / "answers.jsonl").write_bytes(b"one\n")
        (folder / "roots.json").write_text(json.dumps({"pool": "/pool", "own": str(context.workspace.root / "own")}))
        if not (folder / "made-7").exists():
            (folder / "made-7").mkdir()
            (folder / "made-7" / "image.tar").write_bytes(b"drawn")
        return {"summary": f"value {self.value}"}


@dataclass(frozen=True)
class Follower(Number):
    name: ClassVar[str] = "embed"
    reads: ClassVar[tuple[str, ...]] = ("ingest", "text")
    keeps: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True)
class Own(Number):
    name: ClassVar[str] = "select"
    reads: ClassVar[tuple[str, ...]] = ("embed",)
    shared: ClassVar[bool] = False


STAGES = (Number(), Follower(), Own())


def made(root: Path, *stages: Stage, base: Path | None = None, domain: str = "cats") -> list[str]:
    """Names of the stages that ran."""
    given = {stage.name: stage for stage in stages or STAGES}
    context = Context(Workspace(root), Session(accelerator="cpu"), domain, "", None, stages=given, base=base)
    if base is not None:
        begin_from_base(context, list(given), lambda: None)
    return [stage.name for stage in given.values() if run_stage(stage, context)]


def state(root: Path) -> dict[str, tuple[str, int, int]]:
    """Content, time and mode of every file."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(root)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns,
                                      path.stat().st_mode) for path in files
    }  # fmt: skip


@pytest.fixture
def base(tmp_path: Path) -> Path:
    made(tmp_path / "base")
    return tmp_path / "base"


def test_begin_from_base__takes_what_is_equal_and_runs_the_rest(base: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    assert made(own, base=base) == ["select"]
    taken, theirs = (root / "columns" / "ingest" for root in (own, base))
    assert os.path.samefile(taken / "part-00000.npy", theirs / "part-00000.npy")
    assert not os.path.samefile(taken / "answers.jsonl", theirs / "answers.jsonl")  # is appended to
    assert json.loads((taken / "roots.json").read_text()) == {"pool": "/pool", "own": str(own.resolve() / "own")}
    assert taken_stages(Workspace(own)) == {"base": str(base.resolve()), "stages": ["ingest", "embed"]}
    assert made(own, base=base) == []


def test_begin_from_base__says_why(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert made(tmp_path / "own", Number(), Follower(2), Own(), base=base) == ["embed", "select"]
    lines = capsys.readouterr().out.splitlines()
    assert f"base       {base} gives ingest; made here: embed, select" in lines
    assert "ingest     as in the base: value 1" in lines
    assert "embed      starts (not as in the base: value 1 -> 2)" in lines


def test_begin_from_base__a_stage_left_out_is_named(base: Path, tmp_path: Path) -> None:
    context = Context(
        Workspace(tmp_path / "own"), Session(accelerator="cpu"), "cats", "", None,
        stages={"embed": Follower(), "select": Own()}, base=base,
    )  # fmt: skip
    begin_from_base(context, ["embed", "select"], lambda: None)
    assert context.why_here["embed"] == "without ingest" and from_base(context) == []


def test_begin_from_base__lends_what_is_named_by_its_content(base: Path, tmp_path: Path) -> None:
    made(tmp_path / "own", Number(2), base=base)
    own, theirs = (root / "columns" / "ingest" for root in (tmp_path / "own", base))
    assert os.path.samefile(own / "made-7" / "image.tar", theirs / "made-7" / "image.tar")
    assert (own / "part-00000.npy").read_bytes() == b"2" and (theirs / "part-00000.npy").read_bytes() == b"1"


def test_begin_from_base__an_empty_folder_is_not_lent(base: Path, tmp_path: Path) -> None:
    (base / "columns" / "ingest" / "made-7" / "image.tar").unlink()
    assert made(tmp_path / "own", Number(2), base=base) == ["ingest"]


def test_begin_from_base__leaves_the_base_as_it_is(base: Path, tmp_path: Path) -> None:
    before = state(base)
    for number, stages in enumerate([STAGES, (Number(2), Follower(), Own()), (Number(), Follower(3), Own())]):
        made(tmp_path / f"own-{number}", *stages, base=base)
        made(tmp_path / f"own-{number}", Number(5), Follower(5), Own(5), base=base)  # runs again over what it took
    with open(tmp_path / "own-0" / "columns" / "embed" / "answers.jsonl", "ab") as file:
        file.write(b"more\n")
    shutil.rmtree(tmp_path / "own-0")
    assert state(base) == before


def test_begin_from_base__goes_on_after_a_kill(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link, calls = sharing._link, []

    def die(path: Path, other: Path) -> bool:
        calls.append(path)
        if path.parent.name == "embed":
            raise KeyboardInterrupt
        return link(path, other)

    before = state(base)
    monkeypatch.setattr(sharing, "_link", die)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "own", base=base)
    space = Workspace(tmp_path / "own")
    assert space.stage_record("ingest") and not space.stage_folder("embed").exists()
    monkeypatch.setattr(sharing, "_link", link)
    assert made(tmp_path / "own", base=base) == ["select"]
    assert state(base) == before and not (tmp_path / "own" / ".taking").exists()


def test_begin_from_base__follows_a_base_that_changed(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path / "own", base=base)
    record = json.loads((base / "columns" / "embed" / "stage.json").read_text())
    (base / "columns" / "embed" / "stage.json").write_text(json.dumps({**record, "output": "another"}))
    assert made(tmp_path / "own", base=base) == ["select"]
    assert "has other results since: embed are taken anew" in capsys.readouterr().out
    made(base, Number(), Follower(4))  # no longer what this workspace is made of
    assert made(tmp_path / "own", base=base) == []
    assert "is no longer as it was taken from: embed (value 4 -> 1)" in capsys.readouterr().out


def test_begin_from_base__copies_onto_another_disk(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sharing, "_link", lambda path, other: False)
    assert made(tmp_path / "own", base=base) == ["select"]
    assert "base       on another disk: 0.00 GB are copied" in capsys.readouterr().out
    one, other = (root / "columns" / "ingest" / "part-00000.npy" for root in (base, tmp_path / "own"))
    assert one.read_bytes() == other.read_bytes() and one.stat().st_mtime_ns == other.stat().st_mtime_ns
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(OSError, match=r"another disk than .*must be copied, but 0\.0 GB are free"):
        made(tmp_path / "full", base=base)


def test_begin_from_base__a_base_that_is_gone(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path / "own", base=base)
    shutil.rmtree(base)
    assert made(tmp_path / "own", base=base) == []
    assert "is gone; what was taken from it stays" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match=r"curation\.base: .*base does not exist; make it first, by `curate"):
        made(tmp_path / "other", base=base)


def test_begin_from_base__refuses_what_is_no_base(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"curation\.base is the workspace itself"):
        made(base, base=base)
    (base / "workspace.json").write_text('{"domain": "dogs", "pool": null}')
    with pytest.raises(ValueError, match="of another domain, 'dogs', not 'cats'"):
        made(tmp_path / "own", base=base)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty has no finished stage"):
        made(tmp_path / "own", base=tmp_path / "empty")


def test_begin_from_base__waits_for_no_run_that_writes(base: Path, tmp_path: Path) -> None:
    lock = WorkspaceLock(base)
    assert lock.take() is None
    lock.begin_writing()
    with pytest.raises(RuntimeError, match=r"curation\.base: another run writes to .*wait for its end"):
        made(tmp_path / "own", base=base)
    lock.release()
    with read_only(base), read_only(base):  # several may begin from it at once
        assert made(tmp_path / "own", base=base) == ["select"]


def test_begin_from_base__several_begin_from_one_whose_last_run_was_killed(base: Path, tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:  # leaves its name in the lock
        lock = WorkspaceLock(base)
        lock.take()
        lock.begin_writing()
        os._exit(1)
    os.waitpid(child, 0)
    with read_only(base):
        assert made(tmp_path / "own", base=base) == ["select"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    save_clip(folder / "clip")
    save_descriptor(folder / "copy.pt")
    save_pool(folder / "pool")
    return folder


def curate(home: Path, root: Path, **changes: Any) -> Path:
    embed = Embed(ImageText(str(home / "clip"), None), Copy(str(home / "copy.pt"), 24), num_workers=0)
    settings: dict[str, Any] = {
        "concepts": Concepts(words=["red squares", "blue circles"]), "ingest": Ingest(num_workers=0), "embed": embed,
        "text": None,
    }  # fmt: skip
    return Curation("patterns", **{**settings, **changes}).run(root, home / "pool", Session(accelerator="cpu"))


def test_curation__variants_of_a_data_set(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = curate(home, tmp_path / "ws").read_bytes()
    before = state(tmp_path / "ws")
    half = curate(home, tmp_path / "ws-half", variant="half", select=Select(share=0.5))
    capsys.readouterr()
    curate(home, tmp_path / "ws-copies", variant="copies", duplicates=None)
    text = capsys.readouterr().out
    assert "made here: ood, select" in text and "ood        starts (not as in the base: without duplicates)" in text
    same = curate(home, tmp_path / "ws-same", base=str(tmp_path / "ws"))
    assert same.read_bytes() == whole and len(half.read_bytes()) < len(whole)
    full, part = (set(pq.read_table(path)["key"].to_pylist()) for path in (same, half))
    assert len(part) == len(full) // 2 and part < full
    assert "duplicate_of" not in read_ledger(tmp_path / "ws-copies").column_names
    assert {key: value for key, value in state(tmp_path / "ws").items() if key != ".lock"} == {
        key: value for key, value in before.items() if key != ".lock"
    }
    with pytest.raises(ValueError, match=r"curation\.variant is 'half', but the workspace is .*name ends with -half"):
        curate(home, tmp_path / "elsewhere", variant="half")


def test_curation__edited_bank_is_taken_and_edits_made_here_stay(home: Path, tmp_path: Path) -> None:
    curate(home, tmp_path / "ws")

    def edit(root: str, concept: str) -> None:
        (tmp_path / root / "concepts" / "bank.csv").write_text(f"concept\nred squares\n{concept}\n")

    def bank(root: str) -> list[str]:
        return BankFiles(tmp_path / root / "concepts").valid(general=False)

    edit("ws", "green stripes")
    curate(home, tmp_path / "ws")
    curate(home, tmp_path / "ws-a", variant="a")
    assert bank("ws-a") == ["red squares", "green stripes"]
    edit("ws", "yellow dots")  # the variant follows its base
    curate(home, tmp_path / "ws")
    curate(home, tmp_path / "ws-a", variant="a")
    assert bank("ws-a") == ["red squares", "yellow dots"]
    edit("ws-a", "by hand")  # but not over what a person wrote there
    curate(home, tmp_path / "ws-a", variant="a")
    assert bank("ws-a") == ["red squares", "by hand"] and bank("ws") == ["red squares", "yellow dots"]


def test_curation__two_ranks_begin_from_a_base(home: Path, tmp_path: Path, two_ranks: Any) -> None:
    whole = curate(home, tmp_path / "ws").read_bytes()
    two_ranks(lambda rank: curate(home, tmp_path / "ws-a", variant="a"))
    assert (tmp_path / "ws-a/dataset/full/manifest.parquet").read_bytes() == whole
    assert len(taken_stages(Workspace(tmp_path / "ws-a"))["stages"]) == 7
