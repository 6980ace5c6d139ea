"""The curation from a pool to a manifest, with small real models."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from curation.ledger import funnel, read_ledger
from curation.locking import WorkspaceLock
from curation.pipeline import Curation
from curation.session import Session
from curation.sizes import write_size
from curation.stages.concepts import Concepts
from curation.stages.duplicates import Duplicates
from curation.stages.embed import Copy, Embed, ImageText
from curation.stages.ingest import Ingest
from curation.stages.leakage import Leakage
from curation.stages.retrieve import Retrieve
from curation.stages.scenes import Scenes
from curation.stages.select import Select
from curation.trace import trace_key
from curation.workspace import Workspace
from tests.tiny import picture, save_clip, save_descriptor, save_pool


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    save_clip(folder / "clip")
    save_clip(folder / "clip-without", no_branch=False)
    save_descriptor(folder / "copy.pt")
    save_pool(folder / "pool")
    (folder / "tests").mkdir()
    picture(5).resize((40, 40)).save(folder / "tests" / "leak.png")
    picture(1000).save(folder / "tests" / "other.png")
    return folder


def curation(home: Path, **changes: object) -> Curation:
    settings: dict = {
        "domain": "patterns",
        "concepts": Concepts(words=["red squares", "blue circles", "green noise"]),
        "ingest": Ingest(chunk_rows=8, num_workers=0),
        "embed": Embed(
            image_text=ImageText(str(home / "clip"), None), copy=Copy(str(home / "copy.pt"), 24), chunk_rows=3,
            batch_size=2, num_workers=0,
        ),
        "leakage": Leakage(tests=[str(home / "tests")], threshold=0.95),
        "duplicates": Duplicates(threshold=0.95),
        "text": None,
    }  # fmt: skip
    return Curation(**{**settings, **changes})


def run(home: Path, workspace: Path, **changes: object) -> Path:
    return curation(home, **changes).run(workspace, home / "pool", Session(accelerator="cpu"))


@pytest.fixture(scope="module")
def finished(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("finished") / "ws"
    run(home, workspace)
    return workspace


def test_curation__accounts_for_every_image(finished: Path) -> None:
    ledger = read_ledger(finished)
    assert ledger.num_rows == 48
    reasons = dict(zip(ledger["key"].to_pylist(), ledger["drop_reason"].to_pylist(), strict=True))
    assert {key for key, reason in reasons.items() if reason == "unreadable"} == {"empty.jpg", "page.jpg", "cut.png"}
    assert reasons["005.png"] == "leak"
    for number in range(0, 40, 8):  # one of each picture and its copy stays in the draw
        pair = [reasons[f"{number:03d}.png"], reasons[f"{number:03d}-copy.jpg"]]
        assert pair.count("duplicate") == 1
    steps = {row["stage"]: row["real"] for row in funnel(ledger)}
    assert steps["collected"] == 48 and steps["readable"] == 45 and steps["not leaking"] == 44 and steps["unique"] == 39
    manifest = pq.read_table(finished / "dataset/full/manifest.parquet")
    assert manifest["key"].to_pylist() == sorted(key for key, reason in reasons.items() if reason is None)
    assert steps["kept"] == manifest.num_rows


def test_curation__second_run_does_nothing(home: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def times() -> dict[Path, int]:
        return {
            path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file() and path.name != ".lock"
        }

    before = times()
    run(home, finished)
    text = capsys.readouterr().out
    assert "the data set is finished" in text and "starts" not in text
    assert before == times()


def test_curation__a_workspace_has_one_run_at_a_time(home: Path, finished: Path, tmp_path: Path) -> None:
    lock = WorkspaceLock(tmp_path / "ws")
    lock.take()
    lock.begin_writing()
    with pytest.raises(RuntimeError, match=rf"^workspace: another run writes to .* \(process {os.getpid()} on "):
        run(home, tmp_path / "ws")
    assert [path.name for path in (tmp_path / "ws").iterdir()] == [".lock"]
    lock.release()
    shutil.copytree(finished, tmp_path / "ws", dirs_exist_ok=True)
    run(home, tmp_path / "ws")
    assert lock.take() is None  # which the run let go
    lock.release()


def test_curation__sensitivity_reruns_selection_alone(
    home: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path / "ws")
    run(home, tmp_path / "ws", select=Select(sensitivity=3.0))
    lines = [line for line in capsys.readouterr().out.splitlines() if "runs again" in line or "starts" in line]
    assert lines == ["select     runs again (sensitivity 1.0 -> 3.0)"]


def test_curation__goes_on_after_a_kill_to_the_same_bytes(home: Path, finished: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "ws"
    shutil.copytree(finished, workspace)
    # As a kill -9 in the middle of embedding leaves it: some parts, no stage.json, nothing after it.
    embed = workspace / "columns" / "embed"
    record = json.loads((embed / "stage.json").read_text())
    (embed / "begun.json").write_text(json.dumps({"fingerprint": record["fingerprint"], **record["print"]}))
    (embed / "stage.json").unlink()
    for path in sorted(embed.glob("part-0000[5-9]*")):
        path.unlink()
    (embed / ".part-00005.parquet.99.tmp").write_bytes(b"half")
    for stage in ("leakage", "duplicates", "ood", "select"):
        shutil.rmtree(workspace / "columns" / stage)
    shutil.rmtree(workspace / "dataset")
    kept = (embed / "part-00000.parquet").stat().st_mtime_ns
    run(home, workspace)
    assert (embed / "part-00000.parquet").stat().st_mtime_ns == kept
    name = "dataset/full/manifest.parquet"
    assert (workspace / name).read_bytes() == (finished / name).read_bytes()


def test_curation__two_ranks_make_the_same_manifest(home: Path, finished: Path, tmp_path: Path, two_ranks) -> None:
    two_ranks(lambda rank: run(home, tmp_path / "ws"))
    name = "dataset/full/manifest.parquet"
    assert (tmp_path / "ws" / name).read_bytes() == (finished / name).read_bytes()


def test_curation__retrieval_keeps_the_top_k_of_each_concept(home: Path, tmp_path: Path) -> None:
    run(home, tmp_path / "ws", retrieve=Retrieve(k=4))
    ledger = read_ledger(tmp_path / "ws")
    found = np.array(ledger["retrieved"].to_pylist(), dtype=object) == True  # noqa: E712
    assert 4 <= found.sum() <= 12
    concepts = [len(value) for value, hit in zip(ledger["concepts"].to_pylist(), found, strict=True) if hit]
    assert sum(concepts) == 12
    assert set(np.array(ledger["drop_reason"].to_pylist(), dtype=object)[~found]) == {"not_retrieved", "unreadable"}


def test_select__sizes_are_nested(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "ws")
    space = Workspace(tmp_path / "ws")
    sets = [set(pq.read_table(write_size(space, size, f"n{size}"))["key"].to_pylist()) for size in (5, 10, 39)]
    assert [len(keys) for keys in sets] == [5, 10, 39]
    assert sets[0] < sets[1] < sets[2]
    with pytest.raises(ValueError, match=r"--size is 40, but only 39 images"):
        write_size(space, 40, "more")
    with pytest.raises(ValueError, match="never overwritten"):
        write_size(space, 5, "n5")


def test_trace__tells_everything_and_suggests(finished: Path) -> None:
    facts = trace_key(finished, "005.png")
    assert facts["drop_reason"] == "leak" and facts["leaks_from"] == "tests/leak.png"
    with pytest.raises(ValueError, match=r"did you mean .*005\.png"):
        trace_key(finished, "0005.png")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"select": Select(target_size=1000)}, r"curation\.select\.target_size is 1000, but only 39"),
        ({"leakage": Leakage(tests=["nowhere"])}, r"curation\.leakage\.tests: nowhere does not exist"),
        ({"concepts": Concepts()}, r"curation\.concepts has no concept"),
        ({"precision": "16"}, r"curation\.precision is '16'"),
    ],
)
def test_curation__wrong_settings_are_named(home: Path, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        wrong = curation(home, **changes)
        wrong.run(tmp_path / "ws", home / "pool", Session(accelerator="cpu", precision=wrong.precision))


def test_curation__encoder_without_a_no_branch_is_refused_before_any_work(home: Path, tmp_path: Path) -> None:
    embed = Embed(image_text=ImageText(str(home / "clip-without"), None), copy=Copy(str(home / "copy.pt"), 24))
    with pytest.raises(ValueError, match=r"curation\.ood\.no_branch.*fit --config clipn\.yaml"):
        run(home, tmp_path / "ws", embed=embed)
    assert not (tmp_path / "ws" / "columns").exists()


def test_curation__missing_weights_are_named(home: Path, tmp_path: Path) -> None:
    embed = Embed(image_text=ImageText(str(home / "clip"), None), copy=Copy("nowhere.pt", 24))
    with pytest.raises(FileNotFoundError, match=r"curation\.embed\.copy\.model: nowhere\.pt does not exist"):
        run(home, tmp_path / "ws", embed=embed)


def test_curation__pool_that_is_missing_empty_or_broken(home: Path, tmp_path: Path) -> None:
    def on(pool: Path) -> None:
        curation(home).run(tmp_path / f"ws-{pool.name}", pool, Session(accelerator="cpu"))

    with pytest.raises(FileNotFoundError, match=r"pool: .*missing does not exist"):
        on(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"pool: .*empty holds no image"):
        on(tmp_path / "empty")
    (tmp_path / "broken").mkdir()
    for number in range(3):
        (tmp_path / "broken" / f"{number}.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ValueError, match=r"pool: none of the 3 images .* can be used \(3 not_an_image\)"):
        on(tmp_path / "broken")


def test_curation__workspace_of_another_configuration_is_left_alone(home: Path, finished: Path) -> None:
    before = (finished / "dataset/full/manifest.parquet").read_bytes()
    with pytest.raises(
        ValueError, match=r"holds the data set of another configuration \(domain 'patterns', not 'cats'"
    ):
        run(home, finished, domain="cats")
    assert (finished / "dataset/full/manifest.parquet").read_bytes() == before


def test_curation__edited_manifest_is_refused(home: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "ws")
    (tmp_path / "ws/dataset/full/manifest.parquet").write_bytes(b"edited")
    with pytest.raises(ValueError, match="is not the manifest that this workspace's select stage wrote"):
        run(home, tmp_path / "ws")


def test_curation__pool_beside_scenes_is_refused(home: Path, tmp_path: Path) -> None:
    both = curation(home, scenes=Scenes(images=40))
    with pytest.raises(ValueError, match=r"pool: .* is given, but curation\.scenes makes a pool of its own"):
        both.run(tmp_path / "ws", home / "pool", Session(accelerator="cpu"))
    assert not (tmp_path / "ws").exists()


def test_curation__workspace_in_which_nothing_was_finished_is_free(home: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        curation(home).run(tmp_path / "ws", tmp_path / "mistyped", Session(accelerator="cpu"))
    assert curation(home).run(tmp_path / "ws", home / "pool", Session(accelerator="cpu")).exists()


def test_curation__another_no_branch_embeds_nothing_again(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "clip", tmp_path / "clip")
    embed = Embed(ImageText(str(tmp_path / "clip"), None), Copy(str(home / "copy.pt"), 24), num_workers=0)
    run(home, tmp_path / "ws", embed=embed)
    before = {name: Workspace(tmp_path / "ws").stage_record(name) for name in ("embed", "ood")}
    save_clip(tmp_path / "other", spread=0.5)
    shutil.copy(tmp_path / "other" / "no_branch.safetensors", tmp_path / "clip")
    run(home, tmp_path / "ws", embed=embed)
    after = {name: Workspace(tmp_path / "ws").stage_record(name) for name in ("embed", "ood")}
    assert after["embed"] == before["embed"] and after["ood"]["fingerprint"] != before["ood"]["fingerprint"]


def test_curation__stops_after_a_stage_and_goes_on(home: Path, tmp_path: Path) -> None:
    session, workspace = Session(accelerator="cpu"), tmp_path / "ws"
    assert curation(home).run(workspace, None, session, stop_after="concepts") == workspace / "concepts"
    assert (workspace / "concepts" / "bank.csv").exists() and not (workspace / "images").exists()
    with pytest.raises(
        ValueError, match=r"--stop_after concept: the stages of this config are concepts, index, ingest"
    ):
        curation(home).run(workspace, None, session, stop_after="concept")
    run(home, workspace)  # the pool is chosen now
    assert (workspace / "dataset" / "full" / "manifest.parquet").exists()
    with pytest.raises(ValueError, match="holds the data set of another configuration"):
        curation(home).run(workspace, home / "tests", session)
