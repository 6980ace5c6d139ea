from pas_train.comparison.formats import number
from pas_train.comparison.latex import latex_table, tex
from pas_train.comparison.tables import Table


def test_latex__every_line_has_the_columns_of_its_table(tables: list[Table]) -> None:
    for place, table in enumerate(tables, 1):
        lines = latex_table(table, place, 1).splitlines()
        begin = next(n for n, line in enumerate(lines) if line.startswith("\\begin{tabular}"))
        shape = lines[begin].removeprefix("\\begin{tabular}").replace("@{}", "").strip("{}")
        for line in lines[begin:]:
            if line.endswith("\\\\") and "multicolumn" not in line:
                assert line.replace("\\&", "").count("&") == len(shape) - 1
        assert sum(line.count("{") - line.count("}") for line in lines) == 0


def test_latex__measures_of_boxes_stand_below_their_set(tables: list[Table]) -> None:
    (table,) = (table for table in tables if table.title == "Object detection")
    lines = latex_table(table, 1, 1).splitlines()
    above = next(line for line in lines if "multicolumn" in line)
    assert above.endswith("\\multicolumn{3}{c}{food-101} & \\multicolumn{3}{c}{foodx-251} \\\\")
    assert "mAP & AP50 & AP75 & mAP & AP50 & AP75 \\\\" in "\n".join(lines)


def test_tex__what_it_would_take_for_commands_is_escaped() -> None:
    assert tex(number(-0.15, 2)) == "$-$0.15"
    assert tex("[a]") == "{[}a]"  # after the end of a line it would be its argument
    assert tex("50 % of a_b & c±1†") == "50 \\% of a\\_b \\& c$\\pm$1$^\\dagger$"
