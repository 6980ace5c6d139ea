import json
from pathlib import Path
from typing import Any

from pas_train.comparison.grouping import draws_of, missing_seeds, rows_of
from pas_train.comparison.reading import read_all
from pas_train.comparison.rows import Row, backbone_name
from tests.pas_train.comparison.made import result, write


def rows_in(folder: Path) -> tuple[list[Row], list[str]]:
    return rows_of(draws_of(read_all([str(folder)])))


def trained(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.kind == "trained"]


def test_rows__seeds_are_one_row_and_baselines_appear_once(tmp_path: Path) -> None:
    published = {"timm:resnet50": 0.5}
    for name in ("pool", "curated"):
        for seed in range(3):
            write(tmp_path, result(name, seed, published=published))
    rows, notes = rows_in(tmp_path)
    assert [(row.name, len(row.draws)) for row in rows] == [
        ("raw pixels", 1), ("untrained", 3), ("timm:resnet50", 1), ("curated", 3), ("pool", 3),
    ]  # fmt: skip
    assert not notes


def test_rows__runs_of_one_seed_that_differ_in_a_setting_are_rows_that_name_it(tmp_path: Path) -> None:
    for temperature in (0.1, 0.2):
        for seed in range(2):
            write(tmp_path, result(seed=seed, temperature=temperature), temperature=temperature)
    rows, notes = rows_in(tmp_path)
    assert [(row.label, len(row.draws)) for row in trained(rows)] == [
        ("food (temperature 0.1)", 2), ("food (temperature 0.2)", 2),
    ]  # fmt: skip
    assert not notes  # that is what is compared


def test_rows__what_differs_beside_the_images_is_told(tmp_path: Path) -> None:
    for name, temperature in (("pool", 0.1), ("curated", 0.2)):
        write(tmp_path, result(name, temperature=temperature), temperature=temperature)
    (note,) = rows_in(tmp_path)[1]
    assert "model.temperature (0.2 for curated; 0.1 for pool)" in note


def test_rows__setting_of_another_version_parts_no_seeds(tmp_path: Path) -> None:
    for seed in range(2):
        place = write(tmp_path, result(seed=seed))
    config = (place / "config.yaml").read_text()
    (place / "config.yaml").write_text(config.replace("    backbone:", "    new: {a: 1}\n    backbone:"))
    rows, notes = rows_in(tmp_path)
    assert [(row.label, len(row.draws)) for row in trained(rows)] == [("food", 2)]
    assert notes == [
        "model.new: not known to every version of the program that trained here; taken as the same for all."
    ]


def test_rows__untrained_of_another_stem_is_another_row(tmp_path: Path) -> None:
    for name, stem in (("pool", "true"), ("curated", "false")):
        place = write(tmp_path, result(name, int(stem == "true")))
        text = (place / "config.yaml").read_text()
        (place / "config.yaml").write_text(text.replace("    backbone:", f"    small_images: {stem}\n    backbone:"))
    rows, _ = rows_in(tmp_path)
    assert [len(row.draws) for row in rows if row.kind == "untrained"] == [1, 1]


def test_rows__without_settings_two_runs_of_one_seed_are_told_apart_by_name(tmp_path: Path) -> None:
    runs = [result(temperature=temperature) for temperature in (0.1, 0.2)]
    for run in runs:
        write(tmp_path, run, config=False)
    rows = trained(rows_in(tmp_path)[0])
    assert sum(len(row.draws) for row in rows) == 2


def test_rows__sets_of_one_name_are_told_apart_by_domain(tmp_path: Path) -> None:
    for domain in ("birds", "food"):
        content = result("full", domain=domain)
        content["run"] += domain
        content["data"]["identity"] = {"birds": "a", "food": "b"}[domain] * 64
        content["backbones"]["trained"]["identity"] = domain
        write(tmp_path, content)
    assert [row.label for row in trained(rows_in(tmp_path)[0])] == ["full (birds)", "full (food)"]


def test_draws__of_the_same_weights_the_newest_figures_count(tmp_path: Path) -> None:
    run = write(tmp_path, result(names=("knn", "linear")))
    again: dict[str, Any] = result(names=("knn",), top1=0.9)
    path = run / "checkpoints" / "last.evaluation.json"
    path.parent.mkdir()
    path.write_text(json.dumps(again))
    (draw,) = (draw for draw in draws_of(read_all([str(tmp_path)])) if draw.kind == "trained")
    assert draw.figures["food-101"]["knn"] == again["evaluation"]["food-101"]["trained"]["knn"]
    assert "linear" in draw.figures["food-101"]


def test_draws__published_weights_that_were_evaluated_are_a_baseline(tmp_path: Path) -> None:
    content = result(baselines=False) | {"training": None, "run": "timm:resnet50"}
    content["backbones"]["trained"] |= {"kind": "published", "title": "timm:resnet50"}
    path = tmp_path / "resnet50.evaluation.json"
    path.write_text(json.dumps(content))
    (row,) = rows_in(tmp_path)[0]
    assert (row.name, row.kind, row.images) == ("timm:resnet50", "published", None)


def test_backbone_name__as_papers_write_it() -> None:
    names = ("vit_base_patch16_224", "vit_small_patch16_224.dino", "resnet50", "convnext_tiny")
    assert [backbone_name(name) for name in names] == ["ViT-B/16", "ViT-S/16", "ResNet-50", "convnext_tiny"]


def test_rows__a_random_baseline_is_none_of_the_untrained(tmp_path: Path) -> None:
    content = result("pool", backbone="resnet18")
    content["backbones"]["random:resnet18"] = {
        "title": "random resnet18", "kind": "untrained", "architecture": "resnet18", "identity": "another",
    }  # fmt: skip
    for figures in content["evaluation"].values():
        figures["random:resnet18"] = figures["untrained"]
    write(tmp_path, content)
    rows, _ = rows_in(tmp_path)
    assert {row.name: len(row.draws) for row in rows if row.kind == "untrained"} == {
        "untrained": 1, "random resnet18": 1,
    }  # fmt: skip


def test_missing_seeds__are_told_for_the_reader(tmp_path: Path) -> None:
    for seed in range(2):
        write(tmp_path, result("pool", seed, data_sets=("food", "birds") if seed else ("food",), baselines=False))
    assert missing_seeds(rows_in(tmp_path)[0]) == ["pool has 2 seeds, but 1 on birds."]
