"""One self-contained page of sections: text, tables and pictures; reads well on a phone and printed."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.files import atomic

LONG = 60  # letters, from which a cell keeps a width to be read in on a phone
STYLE = """
:root { --ink:#242b38; --soft:#667085; --line:#e4e8ef; --ground:#f6f7fa; --card:#fff; --blue:#2f6db3; }
* { box-sizing:border-box; }
body { margin:0; background:var(--ground); color:var(--ink);
  font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","Liberation Sans",Arial,sans-serif; }
main, header > div { max-width:1100px; margin:0 auto; padding:0 24px; }
header { background:var(--card); border-bottom:1px solid var(--line); padding:26px 0 14px; }
h1 { font-size:26px; line-height:1.2; margin:0; overflow-wrap:anywhere; } h2 { font-size:19px; margin:0 0 4px; }
h3 { font-size:14px; margin:18px 0 2px; } p { margin:4px 0 10px; max-width:90ch; }
.note { color:var(--soft); font-size:13px; }
section { background:var(--card); border:1px solid var(--line); border-radius:12px; padding:18px 22px; margin:18px 0; }
.cards { display:flex; flex-wrap:wrap; gap:12px; margin:16px 0 8px; }
.card { border:1px solid var(--line); border-radius:10px; padding:9px 14px; background:var(--ground); min-width:130px; }
.card b { display:block; font-size:23px; line-height:1.25; font-variant-numeric:tabular-nums; }
.card span { color:var(--soft); font-size:13px; }
.scroll { overflow-x:auto; } table { border-collapse:collapse; font-size:14px; min-width:min(100%,420px); }
th { text-align:left; color:var(--soft); font-weight:600; font-size:12.5px; vertical-align:bottom; }
th, td { padding:6px 18px 6px 0; border-bottom:1px solid var(--line); } tr:last-child td { border-bottom:0; }
td { vertical-align:top; } td:first-child { white-space:nowrap; } td.w { min-width:280px; }
td.n, th.n { text-align:right; font-variant-numeric:tabular-nums; white-space:nowrap; }
code { font:12.5px/1.4 ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace; overflow-wrap:anywhere; }
img { max-width:100%; height:auto; display:block; margin:8px 0; }
@media (max-width:760px) { main, header > div { padding:0 12px; } section { padding:14px; } }
@media print { body { background:#fff; } section { break-inside:avoid; border-color:#ccc; } }
"""


@dataclass(frozen=True)
class Table:
    """heads: titles of the columns; rows: texts, or numbers, which stand right."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG or SVG file; shows: what is in it, for who cannot see it; width: at most, in pixels."""

    path: Path
    shows: str
    title: str = ""
    note: str = ""
    width: int | None = None


@dataclass
class Section:
    """A heading, a sentence, and what follows, in order."""

    title: str
    text: str = ""
    parts: list[Table | Picture] = field(default_factory=list)


def write_page(
    path: Path, title: str, lead: str, cards: Sequence[tuple[str, str]], sections: Sequence[Section]
) -> None:
    """Writes the page. cards: (number, what it counts) below the title."""
    shown = "".join(
        f'<div class="card"><b>{_text(number)}</b><span>{_text(name)}</span></div>' for number, name in cards
    )
    body = "\n".join(_section(section) for section in sections)
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{STYLE}</style></head>\n<body><header><div><h1>{_text(title)}</h1>"
        f'<p class="note">{_text(lead)}</p><div class="cards">{shown}</div></div></header>\n<main>\n{body}\n</main>'
        "</body></html>\n"
    )
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _section(section: Section) -> str:
    note = f'<p class="note">{_text(section.text)}</p>' if section.text else ""
    parts = "".join(_table(part) if isinstance(part, Table) else _picture(part) for part in section.parts)
    return f"<section><h2>{_text(section.title)}</h2>{note}{parts}</section>"


def _table(table: Table) -> str:
    numeric = [
        bool(table.rows) and all(_stands_right(row[place]) for row in table.rows) for place in range(len(table.heads))
    ]
    heads = "".join(
        f"<th{' class=n' if right else ''}>{_text(head)}</th>" for head, right in zip(table.heads, numeric, strict=True)
    )
    rows = "".join(
        "<tr>"
        + "".join(
            f"<td{_class_of(value, right)}>{_text(shown(value))}</td>"
            for value, right in zip(row, numeric, strict=True)
        )
        + "</tr>"
        for row in table.rows
    )
    return f"{_head(table)}<div class=scroll><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"


def _class_of(value: Any, right: bool) -> str:
    return " class=n" if right else " class=w" if isinstance(value, str) and len(value) > LONG else ""


def _picture(picture: Picture) -> str:
    kind = "svg+xml" if picture.path.suffix == ".svg" else "png"
    data = base64.b64encode(picture.path.read_bytes()).decode()
    width = f' style="width:{picture.width}px"' if picture.width else ""
    return f'{_head(picture)}<img{width} src="data:image/{kind};base64,{data}" alt="{_text(picture.shows)}">'


def _head(part: Table | Picture) -> str:
    title = f"<h3>{_text(part.title)}</h3>" if part.title else ""
    return title + (f'<p class="note">{_text(part.note)}</p>' if part.note else "")


def _stands_right(value: Any) -> bool:
    return (
        value is None or (isinstance(value, int | float) and not isinstance(value, bool)) or str(value).endswith(" %")
    )


def shown(value: Any) -> str:
    """A value for people: whole numbers with commas, others with four digits, nothing as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool) or isinstance(value, str):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def percent(value: float | None) -> str | None:
    """A share as a percentage."""
    return None if value is None else f"{100 * value:.1f} %"


def _text(value: Any) -> str:
    return html.escape(str(value))
