"""Tables for LaTeX."""

from collections.abc import Sequence

from pas_train.comparison.cells import AVERAGE, Cell, Column, digits_of
from pas_train.comparison.formats import MINUS, NUMBERS, footnotes, heads, legend, number, row_mark, sections, signed
from pas_train.comparison.tables import Table


def latex(tables: Sequence[Table], digits: int = 1) -> str:
    """The tables for a paper that has the package booktabs."""
    head = "% \\usepackage{booktabs} in the preamble; each table stands alone."
    return "\n\n".join([head, *(latex_table(table, place, digits) for place, table in enumerate(tables, 1))]) + "\n"


def latex_table(table: Table, place: int, digits: int) -> str:
    """One table with caption and label."""
    rows = [row for row, _ in table.rows]
    before = heads(rows)
    shape = "l" + "".join("r" if name in NUMBERS else "l" for name, _ in before) + "r" * len(table.columns)
    bold, under = "\\textbf{Bold}", "\\underline{underlined}"
    told = [f"{table.name}: {table.unit}.", *legend([table], bold, under), *footnotes([table])]
    text = " ".join(tex(one, keep=(bold, under)) for one in told)
    lines = ["\\begin{table}[t]", "\\centering\\small", f"\\caption{{{text}}}", f"\\label{{tab:comparison-{place}}}"]
    lines += [f"\\begin{{tabular}}{{@{{}}{shape}@{{}}}}", "\\toprule"]
    names = ["Pretraining set", *(name.capitalize() for name, _ in before)]
    if table.levels:
        lines += _two_levels(table, len(names))
        names += [column.title for column in table.columns]
    else:
        names += [
            column.data_set.capitalize() if column.data_set == AVERAGE else column.data_set for column in table.columns
        ]
    lines += [f"{' & '.join(map(tex, names))} \\\\", "\\midrule"]
    parting = sections(table)
    for number_, (row, line) in enumerate(table.rows):
        lines += ["\\midrule"] if number_ in parting else []
        mark = row_mark(line)
        cells = [_in_latex(cell, column, digits, mark) for cell, column in zip(line, table.columns, strict=True)]
        lines.append(
            " & ".join([tex(row.label + mark), *(tex(texts[number_]) for _, texts in before), *cells]) + " \\\\"
        )
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}"])


def _two_levels(table: Table, before: int) -> list[str]:
    """The evaluation sets above their columns."""
    heads_, rules, at = [], [], before + 1
    for data_set in dict.fromkeys(column.data_set for column in table.columns):
        width = sum(column.data_set == data_set for column in table.columns)
        heads_.append(f"\\multicolumn{{{width}}}{{c}}{{{tex(data_set)}}}")
        rules.append(f"\\cmidrule(lr){{{at}-{at + width - 1}}}")
        at += width
    return [" & " * before + " & ".join(heads_) + " \\\\", "".join(rules)]


def _in_latex(cell: Cell | None, column: Column, digits: int, mark: str) -> str:
    if cell is None:
        return "--"
    digits = digits_of(column, digits)
    text = ("{}", "\\textbf{{{}}}", "\\underline{{{}}}")[cell.rank].format(tex(number(cell.value, digits)))
    text += f" {{\\scriptsize$\\pm${number(cell.half, digits)}}}" if cell.half is not None else ""
    text += f" {{\\scriptsize({tex(signed(cell.difference, digits))})}}" if cell.difference is not None else ""
    return text + ("" if mark else tex(cell.mark))


TEX = {
    "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_", "{": "\\{", "}": "\\}",
    "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "±": "$\\pm$", MINUS: "$-$", "†": "$^\\dagger$",
    "[": "{[}", "‡": "$^\\ddagger$", "–": "--", "·": "$\\cdot$", "…": "\\dots{}", "<": "$<$", ">": "$>$",
}  # fmt: skip


def tex(text: str, keep: Sequence[str] = ()) -> str:
    """Text with what LaTeX would take for commands escaped; what is in `keep` stays."""
    for one in keep:
        if one in text:
            before, after = text.split(one, 1)
            return tex(before, keep) + one + tex(after, keep)
    return "".join(TEX.get(character, character) for character in text)
