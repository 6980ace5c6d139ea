"""Runs by their settings: readable names that tell them apart."""

from pathlib import Path
from typing import Any

import pytest

from pas_train.sweeping.folder import plan_runs, shown
from pas_train.sweeping.sweep_file import SweepFile


def plan(parameters: dict[str, Any], command: tuple[str, ...] = ("x", "${args}")) -> list[Any]:
    return plan_runs(SweepFile(Path("s"), "s", "grid", parameters, list(command), None, None, []), Path("out"), 0, None)


def test_plan_runs__names_say_what_varies() -> None:
    source = {"values": ["runs/food/dataset/full/manifest.parquet", "data/pas-f.yaml", "torchvision:Food101?root=/d"]}
    runs = plan({"data.source": source, "model.lr": {"value": 0.1}})
    assert [run.name.rpartition("-")[0] for run in runs] == ["source=full", "source=pas-f", "source=d"]
    assert runs[0].folder == Path("out/runs") / runs[0].name and runs[0].number == 1
    assert shown(runs[1].point, {"data.source"}) == "source=data/pas-f.yaml"


def test_plan_runs__same_settings_are_the_same_run() -> None:
    one, other = plan({"a": {"values": [1]}, "b": {"value": 2}}), plan({"a": {"value": 1}, "b": {"values": [2]}})
    assert [run.name.rpartition("-")[2] for run in one] == [run.name.rpartition("-")[2] for run in other]
    assert plan({"a": {"value": 1}}, ("y", "${args}"))[0].name != plan({"a": {"value": 1}})[0].name


def test_plan_runs__yaml_that_is_not_there() -> None:
    command = ("python", "-m", "pas_train", "fit", "${args}")
    with pytest.raises(ValueError, match="--config nonsense: no such file"):
        plan({"config": {"values": [None, "nonsense"]}}, command)
    assert len(plan({"config": {"values": [None, "quickstart"]}}, command)) == 2


def test_plan_runs__values_in_a_file(tmp_path: Path) -> None:
    (run,) = plan({"a": {"value": 1}}, ("x", "${args_json_file}"))
    assert run.line == ["x", str(run.folder / "args.json")]
