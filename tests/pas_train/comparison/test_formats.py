import pytest

from pas_train.comparison import formats
from pas_train.comparison.tables import Table


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (1400, "1,400"), (75_750, "75.8K"), (620_000, "620K"), (999_999, "1M"), (1_281_167, "1.28M"),
     (1.5e9, "1.5B"), (300, "300"), (0.5, "0.5")],
)  # fmt: skip
def test_short_number__reads_as_papers_write_it(value: float | None, text: str) -> None:
    assert formats.short_number(value) == text


def test_console__fits_the_width_and_marks_best_and_second(tables: list[Table]) -> None:
    text = formats.console(tables)
    assert max(map(len, text.splitlines())) <= formats.WIDTH
    knn = text[text.index("k-NN, top-1") : text.index("Object detection")]
    assert [line.split()[0] for line in knn.splitlines() if "**" in line] == ["pas-f"]
    assert text.startswith("MoCo v3, ViT-B/16, 300 epochs, 3 seeds\n")
    assert "† Its pretraining images could not be screened" in text


def test_console__boxes_have_all_measures_with_intervals_and_differences(tables: list[Table]) -> None:
    text = formats.console([table for table in tables if table.title == "Object detection"], width=200)
    heads, best = (next(line for line in text.splitlines() if part in line) for part in ("food-101 mAP", "pas-f  "))
    assert heads.count("mAP") == heads.count("AP50") == heads.count("AP75") == 2
    assert best.count("**") == best.count(" ±") == best.count("(+") == 6 and "average" not in heads


def test_console__narrow_ones_are_broken_into_blocks(tables: list[Table]) -> None:
    text = formats.console(tables, width=90)
    assert max(map(len, text.splitlines())) <= 90
    assert text.count("\npas-f mini ") > len(tables)


def test_markdown__every_line_of_a_table_has_as_many_cells(tables: list[Table]) -> None:
    text = formats.markdown(tables, "A comparison", ["a note"])
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("|"):
            assert len({line.count("|") for line in lines}) == 1
    assert "| pas-f | 1.2M | 300 | MoCo v3 | ViT-B/16 | 3 | **" in text and "- a note" in text


def test_signed__has_a_true_minus_and_none_for_nothing() -> None:
    assert formats.number(-0.001, 2) == "0.00"
    assert [formats.signed(value, 1) for value in (1.25, -3.0, -0.01)] == ["+1.2", "−3.0", "±0.0"]
