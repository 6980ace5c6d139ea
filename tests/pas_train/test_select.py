"""The command `select` on a workspace whose images need not exist: it reads columns only."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curation.stages.select import Select
from curation.workspace import Workspace
from pas_train.__main__ import main
from tests.curation.stages.test_select import run, save_scored
from tests.datamodules.datasets import small_trees

Said = pytest.CaptureFixture[str]


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    space = save_scored(tmp_path / "ws", np.random.default_rng(0).random((60, 3)).astype(np.float32))
    run(space, target_size=40, per_concept_max=12)
    return space


def select(space: Workspace, *options: object) -> int:
    try:
        return main(["select", "--workspace", str(space.root), *map(str, options)])
    except SystemExit as end:
        return int(end.code or 0)


def keys(space: Workspace, name: str) -> list[str]:
    return list(pq.read_table(space.manifest(name))["key"].to_pylist())


def test_select__sizes_are_nested_for_every_pair(space: Workspace, capsys: Said) -> None:
    sizes = [1, 2, 5, 13, 39, 40, 44]
    for size in sizes:
        assert select(space, "--size", size) == 0
        assert f"size-{size}/manifest.parquet: {size} images" in capsys.readouterr().out
    sets = {size: set(keys(space, f"size-{size}")) for size in sizes}
    assert all(sets[small] < sets[large] for small in sizes for large in sizes if small < large)
    assert sets[40] == set(keys(space, "full"))


def test_select__like_another_data_set(space: Workspace, tmp_path: Path) -> None:
    (tmp_path / "photos" / "a").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (40, 40)).save(tmp_path / "photos" / "a" / f"{number}.png")
    assert select(space, "--size", 7, "--name", "mini") == 0
    for like, name in (("photos", "p"), ("ws/dataset/mini", "m"), ("ws/dataset/mini/manifest.parquet", "f")):
        assert select(space, "--like", tmp_path / like, "--name", name) == 0
    assert select(space, "--like", f"food-101:{small_trees.save_food_101(tmp_path)}?partial=true", "--name", "t") == 0
    assert [len(keys(space, name)) for name in "pmft"] == [3, 7, 7, 4]
    assert keys(space, "m") == keys(space, "mini")


def test_select__another_method(space: Workspace) -> None:
    assert select(space, "--method", "Random", "--method.seed", 5, "--size", 8) == 0
    table = pq.read_table(space.manifest("random-8"))
    told = json.loads((space.dataset_folder("random-8") / "selection.json").read_text())
    assert told["method"] == {"kind": "random", "seed": 5} and told["images"] == table.num_rows == 8
    assert told["parent"] == (space.stage_record("select") or {})["result"]["manifest_sha256"]
    assert told["quotas"]["per_concept_max"] == 12
    assert table["front"].null_count == 8 and table["removal_rank"].null_count == 0
    card = (space.dataset_folder("random-8") / "README.md").read_text()
    assert "removed at random" in card and "down to 8 images" in card
    assert select(space, "--method", "OneScore", "--method.threshold", 0.5) == 0
    scores = pq.read_table(space.manifest("one-score"))["ood"].to_numpy()
    assert len(scores) and scores.max() <= 0.5


def test_select__the_method_that_made_it_gives_the_same_images(space: Workspace) -> None:
    assert select(space, "--size", 9) == 0 and select(space, "--method", "Pareto", "--size", 9) == 0
    assert space.manifest("size-9").read_bytes() == space.manifest("pareto-9").read_bytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--size must be given, or --like DATASET"),
        (["--size", 3, "--like", "x"], "--size 3 and --like x both say how many images to keep; give one"),
        (["--like", "nowhere"], "--like nowhere does not exist; give a manifest.parquet"),
        (["--like", "empty"], "--like: empty holds no image"),
        (["--like", "damaged.parquet"], "--like damaged.parquet cannot be read as Parquet"),
        (["--size", 49], "--size is 49, but only 48 images are left after the earlier stages and the quotas"),
        (["--size", 60], "--size is 60, but only 59 images are left after the earlier stages;"),
        (["--size", 0], "--size must be at least 1, got 0"),
        (
            ["--method", "Rnadom", "--size", 3],
            "--method Rnadom is not known; the methods are Pareto, Random, ClipScore",
        ),
        (["--method=Rnadom"], "--method Rnadom is not known"),
        (["--method", "Random"], "--method Random only orders the images: give --size or --like as well"),
        (["--method", "ClipScore", "--method.threshold", 7], "--method.threshold must be a cosine in [-1, 1], got 7"),
        (["--size", 3, "--name", "full"], "--name full"),
    ],
)
def test_select__mistakes(
    space: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said, options: list[object], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged.parquet").write_text("no table")
    before = sorted(path for path in (space.root / "dataset").rglob("*"))
    assert select(space, *options) != 0
    told = " ".join(capsys.readouterr().err.split())
    assert said in told and "Traceback" not in told
    assert sorted(path for path in (space.root / "dataset").rglob("*")) == before


def test_select__imports_no_torch_and_no_faiss(space: Workspace) -> None:
    run_ = ["select", "--workspace", str(space.root), "--size", "4"]
    for args in (["select", "--help"], run_):
        code = (
            "import sys; from pas_train.__main__ import main\n"
            f"try: main({args!r})\nexcept SystemExit: pass\n"
            "sys.exit(int(any(name in sys.modules for name in ('torch', 'faiss', 'lightning'))))"
        )
        assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    assert len(keys(space, "size-4")) == 4


def test_select__settings_of_the_stage_and_of_the_command_are_told_alike(space: Workspace) -> None:
    stage = Select(target_size=5)
    assert select(space, "--size", 5) == 0
    told = json.loads((space.dataset_folder("size-5") / "selection.json").read_text())
    assert told["method"]["kind"] == stage.selector.kind and told["size"] == stage.target_size


def test_select__a_threshold_that_keeps_nothing_is_refused(space: Workspace, capsys: Said) -> None:
    assert select(space, "--method", "OneScore", "--method.threshold", -1.0) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "--method OneScore keeps none of the 59 images; choose another threshold" in said
    assert not space.dataset_folder("one-score").exists()


def test_select__other_quotas_than_the_finished_selection(space: Workspace, capsys: Said) -> None:
    assert select(space, "--size", 7, "--curation.select.per_concept_max", 5) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "curation.select.per_concept_max is 5, but the data set was selected with 12: `curate`" in said
    assert select(space, "--size", 7, "--curation.select.per_concept_max", 12) == 0


def test_select__a_key_of_the_command_line_leaves_the_others_of_the_yaml(
    space: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    space.root.rename(tmp_path / "runs" / "food")
    (tmp_path / "a.yaml").write_text("curation:\n  domain: food\n  text: {detector: {class_path: FAST}}\n")
    monkeypatch.chdir(tmp_path)
    options = ["--config", "a.yaml", "--size", "7", "--curation.select.per_concept_max", "12"]
    assert main(["select", *options]) == 0 and (tmp_path / "runs/food/dataset/size-7/manifest.parquet").exists()
