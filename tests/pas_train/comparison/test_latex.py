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


def test_tex__what_it_would_take_for_commands_is_escaped() -> None:
    assert tex(number(-0.15, 2)) == "$-$0.15"
    assert tex("[a]") == "{[}a]"  # after the end of a line it would be its argument
    assert tex("50 % of a_b & c±1†") == "50 \\% of a\\_b \\& c$\\pm$1$^\\dagger$"
