import json
from pathlib import Path

import pytest

from pas_train.comparison.reading import find_files, read_all, unfinished
from tests.pas_train.comparison.made import result, write


def test_read_all__a_run_its_file_and_its_workspace_count_once(tmp_path: Path) -> None:
    run = write(tmp_path, result())
    (tmp_path / "workspace.json").write_text("{}")
    found = read_all([str(run), str(run / "results.json"), str(tmp_path), str(tmp_path / "training")])
    assert [one.run for one in found] == [run.name]


def test_read_all__the_copies_of_a_sweep_count_once(tmp_path: Path) -> None:
    run = write(tmp_path / "workspace", result())
    copy = tmp_path / "sweep" / "runs" / "lr-1"
    copy.mkdir(parents=True)
    (copy / "results.json").write_text((run / "results.json").read_text())
    assert len(read_all([str(tmp_path / "sweep"), str(tmp_path / "workspace")])) == 1


def test_find_files__evaluations_count_and_a_workspace_is_not_searched_beside_them(tmp_path: Path) -> None:
    run = write(tmp_path, result())
    for place in ("training/x/checkpoints/last", "evaluation/resnet50", "images/hidden", "wandb/hidden"):
        path = tmp_path / f"{place}.evaluation.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((run / "results.json").read_text())
    (tmp_path / "workspace.json").write_text("{}")
    assert {path.stem for path in find_files(tmp_path)} == {"results", "last.evaluation", "resnet50.evaluation"}


def test_recipe__leaves_out_seeds_and_images(tmp_path: Path) -> None:
    first, second = (read_all([str(write(tmp_path / str(seed), result(seed=seed)))])[0] for seed in (0, 1))
    assert first.recipe == second.recipe and first.seeds != second.seeds
    assert first.recipe is not None and first.recipe["model.temperature"] == 0.2
    assert not any("seed" in key or "source" in key or "knn" in key for key in first.recipe)


def test_read_all__names_every_file_of_another_version(tmp_path: Path) -> None:
    for seed, version in enumerate((1, 3)):
        write(tmp_path, result(seed=seed) | {"version": version})
    with pytest.raises(ValueError, match=r"(?s)of version \d.*\n- .*of version \d"):
        read_all([str(tmp_path)])


def test_read_all__tells_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist; give the folder of a run"):
        read_all([str(tmp_path / "nothing")])
    run = write(tmp_path, result())
    (run / "results.json").unlink()
    with pytest.raises(FileNotFoundError, match=f"begun, but not finished: {run.name}"):
        read_all([str(tmp_path)])


def test_read_all__tells_a_damaged_file(tmp_path: Path) -> None:
    run = write(tmp_path, result())
    (run / "results.json").write_text(json.dumps(result())[:100])
    with pytest.raises(ValueError, match="results.json is damaged"):
        read_all([str(run)])


def test_unfinished__sweeps_are_told(tmp_path: Path) -> None:
    assert unfinished([str(tmp_path)]) == []
    (tmp_path / "runs.json").write_text(json.dumps({"runs": [{"state": "finished"}, {"state": "running"}]}))
    assert unfinished([str(tmp_path), "wandb:a/b"]) == [f"1 of 2 runs of the sweep in {tmp_path} are finished."]
