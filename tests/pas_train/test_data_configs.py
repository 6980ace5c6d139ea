"""The packaged data sets of the paper's comparisons: with any recipe, they change nothing but the source."""

import pytest
import yaml

from pas_train.__main__ import main
from pas_train.configs import packaged

SOURCES = {
    "pas-f": "runs/food/dataset/full/manifest.parquet",
    "pas-f-mini": "runs/food/dataset/mini/manifest.parquet",
    "food-2k": "food-2k:data/food-2k",
    "inat-2021-birds": "inat-2021-birds:data/inat-2021",
    "imagenet-1k": "data/imagenet-1k/train",
}


def parsed(capsys: pytest.CaptureFixture[str], *configs: str) -> dict:
    with pytest.raises(SystemExit, match="0"):
        main(["fit", *(word for config in configs for word in ("--config", config)), "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("recipe", ["mocov3_vitb16_300ep.yaml", "nnclr_rn18_500ep.yaml"])
def test_data_config__changes_the_source_alone(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    alone = parsed(capsys, recipe)
    assert alone["data"]["init_args"]["source"] is None
    for name, source in SOURCES.items():
        both = parsed(capsys, recipe, f"data/{name}.yaml")
        assert both["data"]["init_args"].pop("source") == source, name
        assert both["data"]["init_args"] == {k: v for k, v in alone["data"]["init_args"].items() if k != "source"}
        assert {**both, "data": None} == {**alone, "data": None}


def test_data_config__of_each_comparison() -> None:
    assert {name for name in packaged() if name.startswith("data/")} == {f"data/{name}.yaml" for name in SOURCES}


def test_data_config__source_that_is_not_there(tmp_path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="1"):
        main(["fit", "--config", "nnclr_rn18_500ep.yaml", "--config", "data/imagenet-1k.yaml"])
    said = " ".join(capsys.readouterr().err.split())
    assert "data.source: data/imagenet-1k/train does not exist; give a manifest.parquet, a folder of images" in said
    assert not list(tmp_path.iterdir())  # no run was begun
