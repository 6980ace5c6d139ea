import csv
import io
from pathlib import Path

import pytest

from pas_train.comparison import formats, latex, long_csv
from pas_train.comparison.reading import read_all
from pas_train.comparison.rows import draws_of, rows_of
from pas_train.comparison.tables import Table, tables_of
from tests.pas_train.comparison.made import paper


@pytest.fixture
def tables(tmp_path: Path) -> list[Table]:
    folder = paper(tmp_path, names=("knn", "fewshot1", "fewshot5", "logme"))
    rows, _ = rows_of(draws_of(read_all([str(folder)])))
    return tables_of(rows, "imagenet-1k")


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
    knn = text[text.index("k-NN, top-1") : text.index("Few-shot")]
    assert [line.split()[0] for line in knn.splitlines() if "**" in line] == ["pas-f"]
    assert text.startswith("MoCo v3, ViT-B/16, 300 epochs, 3 seeds\n")
    assert "† Its pretraining images could not be screened" in text


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


def test_latex__every_line_has_the_columns_of_its_table(tables: list[Table]) -> None:
    for place, table in enumerate(tables, 1):
        lines = latex.latex_table(table, place, 1).splitlines()
        begin = next(n for n, line in enumerate(lines) if line.startswith("\\begin{tabular}"))
        shape = lines[begin].removeprefix("\\begin{tabular}").replace("@{}", "").strip("{}")
        for line in lines[begin:]:
            if line.endswith("\\\\") and "multicolumn" not in line:
                assert line.replace("\\&", "").count("&") == len(shape) - 1
        assert sum(line.count("{") - line.count("}") for line in lines) == 0


def test_tex__what_it_would_take_for_commands_is_escaped() -> None:
    assert latex.tex(formats.number(-0.15, 2)) == "$-$0.15" and formats.number(-0.001, 2) == "0.00"
    assert latex.tex("[a]") == "{[}a]"  # after the end of a line it would be its argument
    assert latex.tex("50 % of a_b & c±1†") == "50 \\% of a\\_b \\& c$\\pm$1$^\\dagger$"


def test_csv__has_every_number_as_it_is(tables: list[Table]) -> None:
    records = list(csv.DictReader(io.StringIO(long_csv.long_csv(tables))))
    assert len(records) == sum(cell is not None for table in tables for _, line in table.rows for cell in line)
    for record in records:
        values = [float(value) for value in record["values"].split(";")]
        assert float(record["value"]) == pytest.approx(sum(values) / len(values))
    (own,) = (r for r in records if (r["row"], r["data_set"], r["figure"]) == ("pas-f", "food-101", "knn"))
    assert (own["images"], own["seeds"], own["rank"], own["baseline"], own["screened"]) == (
        "1200000", "3", "1", "imagenet-1k", "true",
    )  # fmt: skip


def test_signed__has_a_true_minus_and_none_for_nothing() -> None:
    assert [formats.signed(value, 1) for value in (1.25, -3.0, -0.01)] == ["+1.2", "−3.0", "±0.0"]
