"""When a stage runs, runs again, goes on, or is left alone."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from curation.session import Session
from curation.stage import Context, Stage, identify_files, plain, run_stage, runtime, stage_fingerprint
from curation.workspace import Workspace
from datamodules.files import sha256_file


@dataclass(frozen=True)
class Model:
    name: str = "small"
    sizes: tuple[int, ...] = (1, 2)
    workers: int = runtime(2)


@dataclass(frozen=True)
class Count(Stage):
    name: ClassVar[str] = "count"
    keeps: ClassVar[tuple[str, ...]] = ("made-*", "answers")
    draws: ClassVar[bool] = True
    start: int = 1
    model: Model = field(default_factory=Model)
    batch_size: int = runtime(8)
    weights: Path | None = runtime(None)

    def identity(self, context: Context) -> dict[str, Any]:
        return {"files": identify_files(self.weights)}

    def run(self, context: Context) -> dict[str, Any]:
        folder = context.workspace.stage_folder(self.name)
        seen = len(list(folder.glob("run-*")))
        (folder / f"run-{seen}").write_text("")
        if self.start < 0:
            raise OSError("disk gone")
        return {"rows": 3, "summary": f"run {seen}", "total": self.start}


@dataclass(frozen=True)
class Double(Count):
    name: ClassVar[str] = "double"
    reads: ClassVar[tuple[str, ...]] = ("count", "absent")


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(Workspace(tmp_path / "ws"), Session(accelerator="cpu"), "cats", "", None)


def run(context: Context, *stages: Stage) -> list[bool]:
    context.stages = {stage.name: stage for stage in stages}
    return [run_stage(stage, context) for stage in stages]


def last_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if " done in " not in line]


def test_run_stage__once_then_left_alone(context: Context, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(context, Count()) == [True] and run(context, Count()) == [False]
    assert last_lines(capsys) == ["count      starts", "count      finished before: run 0"]
    record = context.workspace.stage_record("count")
    assert record and record["rows"] == 3 and record["result"] == {"rows": 3, "total": 1}
    assert record["settings"] == {"start": 1, "model": {"name": "small", "sizes": [1, 2]}}
    assert {"torch", "numpy", "pyarrow"} <= set(record["versions"]) and record["seconds"] >= 0
    assert not (context.workspace.stage_folder("count") / "begun.json").exists()


def test_run_stage__speed_settings_change_nothing(context: Context) -> None:
    run(context, Count())
    assert run(context, Count(batch_size=99)) == [False]
    assert run(context, Count(model=Model(workers=9))) == [False]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (Count(start=5), "start 1 -> 5"),
        (Count(model=Model("large")), "model.name 'small' -> 'large'"),
    ],
)
def test_run_stage__a_setting_runs_it_again(
    context: Context, capsys: pytest.CaptureFixture[str], changed: Count, reason: str
) -> None:
    run(context, Count())
    capsys.readouterr()
    assert run(context, changed) == [True]
    assert last_lines(capsys) == [f"count      runs again ({reason})"]
    # From an empty folder: nothing of the earlier run is left.
    assert [path.name for path in context.workspace.stage_folder("count").glob("run-*")] == ["run-0"]


def test_run_stage__seed_and_models_run_it_again(
    context: Context, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "w.pt").write_bytes(b"one")
    run(context, Count(weights=tmp_path / "w.pt"))
    (tmp_path / "w.pt").write_bytes(b"two")
    assert run(context, Count(weights=tmp_path / "w.pt")) == [True]
    context.seed = 7
    assert run(context, Count(weights=tmp_path / "w.pt")) == [True]
    assert last_lines(capsys)[1:] == [
        "count      runs again (its models or inputs changed)", "count      runs again (seed changed)"
    ]  # fmt: skip


def test_run_stage__what_follows_runs_again_too(context: Context, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(context, Count(), Double()) == [True, True]
    capsys.readouterr()
    assert run(context, Count(start=2), Double()) == [True, True]
    assert last_lines(capsys)[1] == "double     runs again (count changed)"
    assert run(context, Count(start=2), Double(start=3)) == [False, True]


def test_run_stage__goes_on_after_an_error_with_what_is_there(
    context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        with pytest.raises(OSError, match="disk gone"):
            run(context, Count(start=-1))
    folder = context.workspace.stage_folder("count")
    assert context.workspace.stage_record("count") is None
    assert sorted(path.name for path in folder.iterdir()) == ["begun.json", "run-0", "run-1"]
    assert last_lines(capsys) == ["count      starts", "count      goes on where it was stopped"]
    assert run(context, Count(start=4)) == [True]  # another setting: not with those parts
    assert sorted(path.name for path in folder.iterdir()) == ["run-0", "stage.json"]


def test_run_stage__finished_record_of_another_setting_is_gone_once_it_begins(context: Context) -> None:
    run(context, Count())
    with pytest.raises(OSError, match="disk gone"):
        run(context, Count(start=-1))
    assert context.workspace.stage_record("count") is None


def test_stage_fingerprint__reads_only_stages_of_this_run(context: Context) -> None:
    run(context, Count(), Double())
    record = json.loads((context.workspace.stage_folder("count") / "stage.json").read_text())
    parts = stage_fingerprint(Double(), context)
    assert parts["reads"] == {"count": record["fingerprint"]}
    context.stages.pop("count")
    assert stage_fingerprint(Double(), context)["fingerprint"] != parts["fingerprint"]


def test_identify_files__file_folder_and_name(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for name in ("b.bin", "a.json"):
        (tmp_path / "model" / name).write_text(name)
    sums = {name: sha256_file(tmp_path / "model" / name) for name in ("a.json", "b.bin")}
    assert identify_files(tmp_path / "model") == sums == identify_files(f"local-dir:{tmp_path}/model")
    assert identify_files(str(tmp_path / "model/b.bin")) == {"b.bin": sums["b.bin"]}
    assert identify_files("laion2b_s34b_b88k") is None and identify_files(None) is None


def test_run_stage__what_is_named_by_its_content_survives_changed_settings(context: Context) -> None:
    run(context, Count())
    folder = context.workspace.stage_folder("count")
    (folder / "answers").mkdir()
    (folder / "answers" / "one.jsonl").write_text("{}")
    (folder / "made-1.tar").write_text("")
    (folder / "other").mkdir()
    run(context, Count(start=2))
    assert sorted(path.name for path in folder.iterdir()) == ["answers", "made-1.tar", "run-0", "stage.json"]
    assert (folder / "answers" / "one.jsonl").exists()


def test_stage_fingerprint__a_stage_that_draws_nothing_is_the_same_for_every_seed(context: Context) -> None:
    @dataclass(frozen=True)
    class Plain(Count):
        draws: ClassVar[bool] = False

    before = stage_fingerprint(Plain(), context)["fingerprint"], stage_fingerprint(Count(), context)["fingerprint"]
    context.seed = 7
    assert stage_fingerprint(Plain(), context)["fingerprint"] == before[0]
    assert stage_fingerprint(Count(), context)["fingerprint"] != before[1]


def test_run_stage__runs_again_when_what_it_wrote_elsewhere_is_gone(
    context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    @dataclass(frozen=True)
    class Writes(Count):
        def intact(self, context: Context) -> bool:
            return (context.workspace.root / "elsewhere").exists()

        def run(self, context: Context) -> dict[str, Any]:
            (context.workspace.root / "elsewhere").write_text("")
            return super().run(context)

    assert run(context, Writes()) == [True] and run(context, Writes()) == [False]
    (context.workspace.root / "elsewhere").unlink()
    assert run(context, Writes()) == [True]
    assert last_lines(capsys)[-1] == "count      runs again (what it wrote is gone)"


def test_run_stage__another_result_of_equal_settings_runs_what_reads_it_again(context: Context) -> None:
    @dataclass(frozen=True)
    class Asks(Count):
        def run(self, context: Context) -> dict[str, Any]:
            return {"output": (context.workspace.root / "answer").read_text()}

    answer = context.workspace.root / "answer"
    answer.parent.mkdir()
    answer.write_text("half of it")
    assert run(context, Asks(), Double()) == [True, True] and run(context, Asks(), Double()) == [False, False]
    (context.workspace.stage_folder("count") / "stage.json").unlink()  # asked again
    assert run(context, Asks(), Double()) == [True, False]
    answer.write_text("all of it")
    (context.workspace.stage_folder("count") / "stage.json").unlink()
    assert context.workspace.current_record("double") is None
    assert run(context, Asks(), Double()) == [True, True]
    assert context.workspace.current_record("double") is not None


def test_plain__tells_which_class_a_key_took() -> None:
    @dataclass(frozen=True)
    class Quick:
        kind: ClassVar[str] = "quick"
        size: int = 3

    assert plain(Quick()) == {"kind": "quick", "size": 3}
