"""Text and tables as Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any


def plain(value: Any) -> str:
    """A text that Markdown shows as it is, on one line, in a table's cell too."""
    text = " ".join(str(value).split()).replace("\\", "\\\\")
    for sign in "`*_[]|#":
        text = text.replace(sign, "\\" + sign)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """A Markdown table whose last columns are numbers."""
    ruler = ["---"] * (len(header) - numbers) + ["---:"] * numbers
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ruler, *rows))
