"""Tables as text for the console and Markdown, and the words that all formats share."""

import textwrap
from collections.abc import Callable, Sequence

from pas_train.comparison.cells import UNKNOWN, UNSCREENED, Cell, Column, digits_of
from pas_train.comparison.rows import Row
from pas_train.comparison.tables import Table

WIDTH = 118
LABEL = 40  # of a row on the console
MARKS = {
    UNKNOWN: "Its pretraining images could not be screened against the test images",
    UNSCREENED: "Curated here, but not screened against the test images",
}
HEADS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("images", lambda row: short_number(row.images)),
    ("epochs", lambda row: short_number(row.epochs)),
    ("method", lambda row: row.method),
    ("backbone", lambda row: row.backbone),
    ("seeds", lambda row: str(len(row.draws)) if row.kind in ("trained", "untrained") else ""),
)
NUMBERS = ("images", "epochs", "seeds")
MINUS = "−"


def short_number(value: float | None) -> str:
    """1,281,167 is 1.28M, 75,750 is 75.8K, 1,400 is 1,400; nothing for what is not known."""
    if value is None:
        return ""
    for unit, factor in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if round(value / factor, 2) >= 1 and value >= 10_000:
            return f"{value / factor:.3g}{unit}"
    return f"{value:,.6g}"


def number(value: float, digits: int) -> str:
    """A figure, with a true minus sign."""
    return f"{value:z.{digits}f}".replace("-", MINUS)


def signed(value: float, digits: int) -> str:
    """A difference, with a true minus sign."""
    text = f"{value:+.{digits}f}"
    return text.replace("-", MINUS) if float(text) else f"±{abs(float(text)):.{digits}f}"


def heads(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """The columns before the figures that say anything: name and one text for each row."""
    told = [(name, [text(row) for row in rows]) for name, text in HEADS]
    return [(name, texts) for name, texts in told if any(texts)]


def sections(table: Table) -> list[int]:
    """Places of rows before which a line parts baselines from trainings, and one backbone from another."""
    keys = [
        (row.kind == "trained", row.backbone, row.method) if row.kind == "trained" else (False,)
        for row, _ in table.rows
    ]
    return [place for place in range(1, len(keys)) if keys[place] != keys[place - 1]]


def heading(column: Column) -> str:
    """Of a column, in one line."""
    return f"{column.data_set} {column.title}".strip()


def legend(tables: Sequence[Table], best: str, second: str) -> list[str]:
    """What the marks and intervals of tables mean, in sentences."""
    cells = [cell for table in tables for _, line in table.rows for cell in line if cell is not None]
    told = [f"{best} is best, {second} second."] if any(cell.rank for cell in cells) else []
    overs = {("seeds" if cell.over.endswith("seeds") else "images") for cell in cells if cell.half is not None}
    if overs == {"seeds"}:
        told.append("±: 95 % interval of the mean over seeds.")
    elif overs == {"images"}:
        told.append("±: 95 % interval over the test images.")
    elif overs:
        told.append("±: 95 % interval, over seeds where a row has several, else over the test images.")
    if any(cell.over == "2 seeds" for cell in cells):
        told.append("Intervals of two seeds are wide (Student's t); three or more tell more.")
    bases = dict.fromkeys(table.baseline for table in tables if table.baseline)
    if bases and any(cell.difference is not None for cell in cells):
        told.append(f"In brackets the difference to {', '.join(bases)}, in points.")
    return told


def footnotes(tables: Sequence[Table]) -> list[str]:
    """The marked sentences below tables."""
    whys: dict[str, dict[str, None]] = {}
    for table in tables:
        for mark, reasons in table.footnotes.items():
            whys[mark] = whys.get(mark, {}) | reasons
    return [f"{mark} {MARKS[mark]} ({'; '.join(reasons)})." for mark, reasons in sorted(whys.items())]


def row_mark(line: Sequence[Cell | None]) -> str:
    """The mark that all cells of a row have; it then stands behind the row's name."""
    marks = {cell.mark for cell in line if cell is not None}
    return marks.pop() if len(marks) == 1 else ""


# The console.


def console(tables: Sequence[Table], digits: int = 1, width: int = WIDTH) -> str:
    """The tables in text of a fixed width; wide ones in several blocks."""
    rows = list({id(row): row for table in tables for row, _ in table.rows}.values())
    constant = alike(rows)
    words = [constant.get("method", ""), constant.get("backbone", "")]
    words += [f"{constant['epochs']} epochs"] if "epochs" in constant else []
    words += [f"{constant['seeds']} seed{'s' if constant['seeds'] != '1' else ''}"] if "seeds" in constant else []
    lines = [", ".join(word for word in words if word)]
    for table in tables:
        lines += ["", f"{table.name}, {table.unit}", *_blocks(table, constant, digits, width)]
    notes = [*legend(tables, "**", "*"), *footnotes(tables)]
    return "\n".join([*lines, "", *(wrapped(note, width) for note in notes)]).lstrip("\n")


def wrapped(text: str, width: int = WIDTH) -> str:
    """A sentence broken where words end."""
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def alike(rows: Sequence[Row]) -> dict[str, str]:
    """The columns, but for the images, in which all rows that were trained here say the same, and what they say."""
    trained = [row for row in rows if row.kind == "trained"]
    told = {name: {text(row) for row in trained} for name, text in HEADS if name != "images"}
    return {name: texts.pop() for name, texts in told.items() if len(texts) == 1}


def _blocks(table: Table, constant: dict[str, str], digits: int, width: int) -> list[str]:
    rows = [row for row, _ in table.rows]
    labels = [_cut(row.label, LABEL) + row_mark(line) for row, line in table.rows]
    before = [("", labels), *((name, texts) for name, texts in heads(rows) if name not in constant)]
    left = [[name, *texts] for name, texts in before]
    right = [_aligned(table, place, digits) for place in range(len(table.columns))]
    room = width - sum(max(map(len, one)) + 2 for one in left)
    lines: list[str] = []
    while right:
        taken, used = 0, 0
        while taken < len(right) and (not taken or used + len(right[taken][0]) + 2 <= room):
            used += len(right[taken][0]) + 2
            taken += 1
        flush = {0, *(place for place, (name, _) in enumerate(before) if name not in NUMBERS)}
        lines += _laid_out([*left, *right[:taken]], flush)
        right = right[taken:]
        lines += [""] if right else []
    return lines


def _aligned(table: Table, place: int, digits: int) -> list[str]:
    """Heading and cells of a column, its parts below each other; of families of figures the figures alone."""
    column, whole = table.columns[place], not table.family
    digits = digits_of(column, digits)
    parts = []
    for _, line in table.rows:
        cell = line[place]
        if cell is None:
            parts.append(["–", "", "", "", ""])
            continue
        half = f" ±{number(cell.half, digits)}" if cell.half is not None and whole else ""
        difference = f" ({signed(cell.difference, digits)})" if cell.difference is not None and whole else ""
        mark = "" if row_mark(line) else cell.mark
        parts.append([number(cell.value, digits), ("", "**", "*")[cell.rank], half, difference, mark])
    widths = [max(len(part[i]) for part in parts) for i in range(5)]
    flush = (str.rjust, str.ljust, str.rjust, str.rjust, str.ljust)
    cells = ["".join(f(text, w) for f, text, w in zip(flush, part, widths, strict=True)) for part in parts]
    title = heading(column)
    width = max(len(title), len(cells[0]))
    return [title.rjust(width), *(cell.rjust(width) for cell in cells)]


def _laid_out(columns: Sequence[Sequence[str]], left: set[int]) -> list[str]:
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join(
            text.ljust(width) if place in left else text.rjust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in zip(*columns, strict=True)
    ]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width * 2 // 3 - 1]}…{text[-(width // 3) :]}"


# Files.


def markdown(tables: Sequence[Table], title: str, notes: Sequence[str], digits: int = 1) -> str:
    """The tables as Markdown, as GitHub shows it."""
    parts = [f"# {title}"]
    for table in tables:
        rows = [row for row, _ in table.rows]
        before = heads(rows)
        names = ["pretraining set", *(name for name, _ in before), *map(heading, table.columns)]
        marks = [":--", *("--:" if name in NUMBERS else ":--" for name, _ in before), *("--:" for _ in table.columns)]
        lines = [names, marks]
        for place, (row, line) in enumerate(table.rows):
            mark = row_mark(line)
            cells = [_in_markdown(c, column, digits, mark) for c, column in zip(line, table.columns, strict=True)]
            lines.append([row.label + mark, *(texts[place] for _, texts in before), *cells])
        text = "\n".join(f"| {' | '.join(_escaped(one) for one in line)} |" for line in lines)
        below = " ".join([*legend([table], "**Bold**", "<ins>underlined</ins>"), *footnotes([table])])
        parts += [f"## {table.name}", f"{table.unit[0].upper()}{table.unit[1:]}.", text, below]
    if notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _in_markdown(cell: Cell | None, column: Column, digits: int, mark: str) -> str:
    if cell is None:
        return "–"
    digits = digits_of(column, digits)
    text = ("{}", "**{}**", "<ins>{}</ins>")[cell.rank].format(number(cell.value, digits))
    text += f" ±{number(cell.half, digits)}" if cell.half is not None else ""
    return (
        text
        + (f" ({signed(cell.difference, digits)})" if cell.difference is not None else "")
        + ("" if mark else cell.mark)
    )
