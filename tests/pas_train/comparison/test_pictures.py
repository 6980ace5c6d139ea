import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pas_train.comparison.bubbles import _panels, accuracy_over_size
from pas_train.comparison.curves import curve_of, knn_over_images
from pas_train.comparison.drawing import names_of, recipe_titles
from pas_train.comparison.grouping import draws_of, rows_of
from pas_train.comparison.reading import read_all
from pas_train.comparison.rows import Row
from pas_train.comparison.tables import Table, tables_of
from tests.pas_train.comparison.made import paper, result, write


def compared(folder: Path) -> tuple[list[Table], list[Row]]:
    rows, _ = rows_of(draws_of(read_all([str(folder)])))
    return tables_of(rows), rows


def test_pictures__are_drawn_and_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    tables, rows = compared(paper(tmp_path, seeds=2))
    for draw in (lambda: accuracy_over_size(tables, rows), lambda: knn_over_images(rows)):
        chart = draw()
        assert chart is not None and chart == draw()
        assert chart["svg"].startswith(b"<?xml") and Image.open(io.BytesIO(chart["png"])).width > 1000


def test_pictures__masks_and_boxes_have_panels_of_their_first_measure(tmp_path: Path) -> None:
    names = ("segmentation", "detection")
    write(tmp_path, result(names=names, data_sets=("plates",)))
    tables, rows = compared(tmp_path)
    panels = _panels(tables, rows)
    assert [table.title for table, *_ in panels] == ["Semantic segmentation", "Object detection"]
    judged = rows[-1].draws[0].figures["plates"]
    points = [100 * judged["segmentation"]["miou"], 100 * judged["detection"]["map"]]
    assert [[cell.value for *_, cell in own] for _, _, own in panels] == [[pytest.approx(one)] for one in points]
    assert accuracy_over_size(tables, rows)


def test_pictures__one_run_alone(tmp_path: Path) -> None:
    write(tmp_path, result())
    tables, rows = compared(tmp_path)
    assert accuracy_over_size(tables, rows) and knn_over_images(rows)


def test_pictures__many_sets_have_a_key(tmp_path: Path) -> None:
    for number in range(14):
        write(tmp_path, result(f"a set with a rather long name, number {number}", images=1000 * (number + 1)))
    tables, rows = compared(tmp_path)
    assert accuracy_over_size(tables, rows) and knn_over_images(rows)


def test_pictures__none_without_what_they_show(tmp_path: Path) -> None:
    content = result()
    content["data"]["images"] = None
    content["training"]["curve"] = []
    write(tmp_path, content)
    tables, rows = compared(tmp_path)
    assert accuracy_over_size(tables, rows) is None and knn_over_images(rows) is None


def test_curve__is_the_mean_and_range_of_what_all_seeds_have_seen() -> None:
    seeds = [
        [{"images_seen": 0, "top1": 0.0}, {"images_seen": 10, "top1": 0.4}, {"images_seen": 20, "top1": 0.5}],
        [{"images_seen": 0, "top1": 0.2}, {"images_seen": 10, "top1": 0.6}],
    ]
    curve = curve_of(seeds)
    assert curve is not None
    assert curve == pytest.approx(np.array([[0, 10, 0, 20], [10, 50, 40, 60]]))
    assert curve_of([[], []]) is None


def test_recipe_titles__epochs_part_panels_only_where_a_set_was_trained_for_several(tmp_path: Path) -> None:
    def rows(*made: tuple[str, int, int]) -> list[Row]:
        folder = tmp_path / str(made)
        for name, images, epochs in made:
            write(folder / name, result(name, images=images, epochs=epochs, baselines=False))
        return rows_of(draws_of(read_all([str(folder)])))[0]

    equal_steps = rows(("pool", 1_500, 8), ("curated", 1_000, 12))
    assert {recipe_titles(equal_steps)(row) for row in equal_steps} == {""}
    assert sorted(names_of(equal_steps).values()) == ["curated", "pool"]
    longer = rows(("pool", 1_500, 8), ("pool", 1_500, 80), ("curated", 1_000, 8))
    assert sorted({recipe_titles(longer)(row) for row in longer}) == ["8 epochs", "80 epochs"]
