"""The packaged evaluation sets: with any recipe, they change nothing but the evaluation."""

from pathlib import Path

import pytest
import yaml

from pas_train.__main__ import main
from pas_train.configs import find_config, packaged
from pas_train.evaluation.evaluation_set import EvaluationSet
from tests.datamodules.datasets import small_trees
from tests.pas_train.test_data_configs import parsed

SETS = {"food": ["food-101", "foodx-251"], "birds": ["cub-200-2011", "nabirds"],
        "food-dense": ["foodseg103", "oktoberfest"]}  # fmt: skip
KINDS = {"foodseg103": "masks", "oktoberfest": "boxes"}
SAVED = {"food-101": small_trees.save_food_101, "foodx-251": small_trees.save_foodx_251,
         "cub-200-2011": small_trees.save_cub, "nabirds": small_trees.save_nabirds,
         "foodseg103": small_trees.save_foodseg103, "oktoberfest": small_trees.save_oktoberfest}  # fmt: skip


def test_evaluation_config__of_each_domain() -> None:
    assert {name for name in packaged() if name.startswith("evaluation/")} == {
        f"evaluation/{name}.yaml" for name in SETS
    }


@pytest.mark.parametrize("domain", SETS)
def test_evaluation_config__changes_the_evaluation_alone(domain: str, capsys: pytest.CaptureFixture[str]) -> None:
    alone = parsed(capsys, "nnclr_rn18_500ep.yaml")
    both = parsed(capsys, "nnclr_rn18_500ep.yaml", f"evaluation/{domain}.yaml")
    assert [item["name"] for item in both["evaluation"]["datasets"]] == SETS[domain]
    sections = {name for name, value in both["evaluation"].items() if isinstance(value, dict)}
    dense = domain == "food-dense"
    assert sections == ({"segmentation", "detection"} if dense else {"knn", "linear", "transfer"})
    assert dense or both["evaluation"]["knn"] == alone["evaluation"]["knn"]
    assert {**both, "evaluation": None} == {**alone, "evaluation": None}


@pytest.mark.parametrize("domain", SETS)
def test_evaluation_config__roots_hold_the_official_files(
    domain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for entry in yaml.safe_load(find_config(f"evaluation/{domain}.yaml").read_text())["evaluation"]["datasets"]:
        SAVED[entry["name"]](tmp_path / entry["root"])
        item = EvaluationSet(entry["name"], root=f"{entry['root']}?partial=true")
        assert item.check(tmp_path) == KINDS.get(entry["name"], "labels")
        if entry["name"] not in KINDS:
            train, test = item.read(tmp_path)
            assert len(train) and len(test)


def test_evaluation_config__what_is_missing_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="1"):
        main(["fit", "--config", "nnclr_rn18_500ep.yaml", "--config", "evaluation/birds.yaml"])
    said = capsys.readouterr().err
    assert "data/cub-200-2011 does not exist; it is to be the folder of CUB-200-2011" in " ".join(said.split())
    assert "\n- images.txt, image_class_labels.txt, train_test_split.txt, classes.txt\n" in said
    assert "Add download=true to fetch it (1.2 GB), or unpack https://data.caltech.edu/" in " ".join(said.split())
    assert not list(tmp_path.iterdir())
