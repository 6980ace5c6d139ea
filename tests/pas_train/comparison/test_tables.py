import math
from pathlib import Path
from statistics import fmean, stdev

import pytest
from scipy.stats import t

from pas_train.comparison.cells import AVERAGE, UNKNOWN, UNSCREENED, interval_of, student_95
from pas_train.comparison.grouping import draws_of, rows_of
from pas_train.comparison.reading import read_all
from pas_train.comparison.tables import Table, tables_of
from pas_train.evaluation.transferability import combine_ncti
from tests.pas_train.comparison.made import result, write


def tables(folder: Path, *contents: dict, **options: object) -> dict[str, Table]:
    for content in contents:
        write(folder, content)
    rows, _ = rows_of(draws_of(read_all([str(folder)])))
    return {table.name: table for table in tables_of(rows, **options)}


def cell(table: Table, name: str, data_set: str = "food-101", figure: str | None = None):
    place = next(n for n, c in enumerate(table.columns) if c.data_set == data_set and figure in (None, c.figure))
    return next(line[place] for row, line in table.rows if row.label == name)


def test_cells__mean_and_interval_over_seeds(tmp_path: Path) -> None:
    runs = [result(seed=seed) for seed in range(3)]
    values = [100 * run["evaluation"]["food-101"]["trained"]["knn"]["top1"] for run in runs]
    found = cell(tables(tmp_path, *runs)["k-NN"], "food")
    assert found.value == pytest.approx(fmean(values))
    assert found.half == pytest.approx(t.ppf(0.975, 2) * stdev(values) / math.sqrt(3))
    assert (found.over, found.values) == ("3 seeds", pytest.approx(tuple(values)))


def test_cells__of_one_seed_the_interval_of_the_test_images(tmp_path: Path) -> None:
    run = result()
    figures = run["evaluation"]["food-101"]["trained"]["knn"]
    found = cell(tables(tmp_path, run)["k-NN"], "food")
    assert (found.low, found.high) == pytest.approx(tuple(100 * one for one in figures["interval"]))
    assert found.over == "test images"


def test_cells__of_one_training_the_wider_of_both_intervals(tmp_path: Path) -> None:
    run = result(names=("fewshot1",))
    run["evaluation"]["food-101"]["trained"]["fewshot1"]["seeds"] = [0.4, 0.6, 0.8]
    found = cell(tables(tmp_path, run)["Few-shot"], "food")
    assert (found.over, found.half) == ("the protocol's seeds", pytest.approx(100 * 0.2 * t.ppf(0.975, 2) / 3**0.5))


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 30])
def test_student__is_that_of_scipy(freedom: int) -> None:
    assert student_95(freedom) == pytest.approx(t.ppf(0.975, freedom), rel=1e-9)


def test_interval__none_of_one_value() -> None:
    assert interval_of([1.0])[:2] == (None, None)


def test_ranks__best_and_second_and_what_reads_the_same_shares_them(tmp_path: Path) -> None:
    runs = [result(name, top1=0.5, baselines=False) for name in ("a", "b", "c", "d")]
    for run, top1 in zip(runs, (0.5, 0.6002, 0.5998, 0.55), strict=True):
        run["evaluation"]["food-101"]["trained"]["knn"]["top1"] = top1
    table = tables(tmp_path, *runs)["k-NN"]
    assert [cell(table, name).rank for name in "abcd"] == [0, 1, 1, 2]


def test_ranks__one_row_is_not_the_best(tmp_path: Path) -> None:
    assert cell(tables(tmp_path, result(baselines=False))["k-NN"], "food").rank == 0


def test_difference__to_the_baseline_of_the_same_backbone(tmp_path: Path) -> None:
    runs = [
        result(name, top1=top1, backbone=backbone, baselines=False)
        for name, level in (("imagenet", 0.5), ("food", 0.6))
        for backbone, top1 in (("resnet18", level), ("resnet50", level + 0.2))
    ]
    table = tables(tmp_path, *runs, baseline="imagenet")["k-NN"]
    for row, line in table.rows:
        if row.name == "food":
            base = next(other for one, other in table.rows if (one.name, one.backbone) == ("imagenet", row.backbone))
            assert line[0].difference == pytest.approx(line[0].value - base[0].value)
        else:
            assert line[0].difference is None


def test_difference__within_both_intervals_is_not_clear(tmp_path: Path) -> None:
    table = tables(tmp_path, result("a", top1=0.5), result("b", top1=0.51), result("c", top1=0.9), baseline="a")["k-NN"]
    assert not cell(table, "b").clear and cell(table, "c").clear


def test_difference__is_not_clear_without_intervals(tmp_path: Path) -> None:
    contents = [result(name, 0, top1, names=("logme",)) for name, top1 in (("a", 0.4), ("b", 0.8))]
    found = cell(tables(tmp_path, *contents, baseline="a")["Transferability"], "b")
    assert found.difference is not None and found.clear is None


def test_baseline__unknown_name_is_told_with_a_close_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--baseline .imagenet1k. is none of the rows; did you mean imagenet-1k"):
        tables(tmp_path, result("imagenet-1k"), baseline="imagenet1k")


def test_average__only_of_rows_that_have_all_sets(tmp_path: Path) -> None:
    table = tables(tmp_path, result("a"), result("b", data_sets=("food-101",)))["k-NN"]
    sets = [cell(table, "a", name).value for name in ("food-101", "foodx-251")]
    assert cell(table, "a", AVERAGE).value == pytest.approx(fmean(sets))
    assert cell(table, "b", AVERAGE) is None and cell(table, "b", "foodx-251") is None


def test_masks__mean_interval_rank_and_difference_of_each_measure(tmp_path: Path) -> None:
    runs = [result(name, seed, top1, names=("segmentation",)) for name, top1 in (("a", 0.4), ("b", 0.8))
            for seed in range(3)]  # fmt: skip
    table = tables(tmp_path, *runs, baseline="a", metric="top5")["Semantic segmentation"]
    assert [(c.data_set, c.title) for c in table.columns] == [
        (data_set, title) for data_set in ("food-101", "foodx-251") for title in ("mIoU", "mAcc")
    ]  # and no average
    for column, key in zip(table.columns[:2], ("miou", "macc"), strict=True):
        values = {name: [100 * run["evaluation"]["food-101"]["trained"]["segmentation"][key] for run in runs
                         if run["data"]["name"] == name] for name in "ab"}  # fmt: skip
        line = next(line for row, line in table.rows if row.label == "b")
        found = line[table.columns.index(column)]
        assert (found.value, found.rank) == (pytest.approx(fmean(values["b"])), 1)
        assert found.difference == pytest.approx(fmean(values["b"]) - fmean(values["a"])) and found.clear
        assert found.half == pytest.approx(t.ppf(0.975, 2) * stdev(values["b"]) / math.sqrt(3))


def test_boxes__of_one_training_the_interval_of_the_protocols_seeds_is_that_of_map(tmp_path: Path) -> None:
    run = result(names=("detection",), data_sets=("oktoberfest",), baselines=False)
    run["evaluation"]["oktoberfest"]["trained"]["detection"]["seeds"] = [0.4, 0.6, 0.8]
    table = tables(tmp_path, run)["Object detection"]
    ((_, line),) = table.rows
    assert [one.over for one in line] == ["the protocol's seeds", "", ""]
    assert line[0].half == pytest.approx(100 * 0.2 * t.ppf(0.975, 2) / 3**0.5)


def test_ncti__is_combined_over_all_rows(tmp_path: Path) -> None:
    runs = [
        result(name, top1=top1, names=("ncti",), baselines=False) for name, top1 in (("a", 0.3), ("b", 0.5), ("c", 0.6))
    ]
    table = tables(tmp_path, *runs)["Transferability"]
    terms = [run["evaluation"]["food-101"]["trained"]["ncti"] for run in runs]
    assert [cell(table, name).value for name in "abc"] == pytest.approx(list(combine_ncti(terms)))
    assert [cell(table, name).rank for name in "abc"] == [0, 2, 1]


def test_ncti__of_one_row_says_nothing(tmp_path: Path) -> None:
    found = tables(tmp_path, result(names=("ncti", "knn"), baselines=False))
    assert list(found) == ["k-NN"]


def test_marks__what_could_not_be_and_what_was_not_screened(tmp_path: Path) -> None:
    runs = [result("in", curated=False, screened=False, published={"timm:x": 0.4}), result("own", screened=False)]
    table = tables(tmp_path, *runs)["k-NN"]
    marks = {row.name: {one.mark for one in line if one} for row, line in table.rows}
    assert marks == {
        "raw pixels": {""}, "untrained": {""}, "timm:x": {UNKNOWN}, "in": {UNKNOWN}, "own": {UNSCREENED}
    }  # fmt: skip
    assert set(table.footnotes) == {UNKNOWN, UNSCREENED}


def test_tables__families_share_one_and_unknown_figures_have_their_own(tmp_path: Path) -> None:
    found = tables(tmp_path, result(names=("knn", "knn5", "knn20", "fewshot2", "logme", "new")))
    assert list(found) == ["k-NN", "Few-shot", "k-NN, weighted vote", "Transferability", "new"]
    assert [c.title for c in found["k-NN, weighted vote"].columns[:2]] == ["k = 5", "k = 20"]


def test_tables__split_by_backbone_with_baselines_of_it(tmp_path: Path) -> None:
    runs = [result("food", backbone=backbone) for backbone in ("resnet18", "resnet50")]
    found = tables(tmp_path, *runs, split=lambda row: row.backbone)
    assert {"k-NN · ResNet-18", "k-NN · ResNet-50"} <= set(found)
    assert [row.name for row, _ in found["k-NN · ResNet-18"].rows] == ["raw pixels", "untrained", "food"]
