"""The concept bank on disk: bank.parquet for the stages that follow, bank.csv, the same table, for a person to edit.

What a person changes in bank.csv (rows taken out, rows added, `valid` or `general` changed) is the bank from then on;
deleting the file goes back to what was found. written.json remembers what we wrote, so that the two are told apart.
"""

import csv
import dataclasses
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.concepts.names import merge_key
from curation.workspace import write_table
from datamodules.files import atomic, fingerprint, read_json, write_json

SCHEMA = pa.schema(
    {
        "concept": pa.string(), "general": pa.bool_(), "origin": pa.string(), "round": pa.int32(),
        "parent": pa.string(), "model": pa.string(), "seed": pa.int64(), "probability": pa.float64(),
        "valid": pa.bool_(), "reason": pa.string(),
    }
)  # fmt: skip
WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass
class Entry:
    """One concept and where it comes from.

    general: of the general bank B'. origin: given (in the yaml), generated, expanded, gap, wider, or added (by hand).
    round: draw of the generation or round of the expansion that found it, from 1. parent: the concept that was asked
    about. probability: that the checker says yes, where it was asked for. reason: why it is not valid.
    """

    concept: str
    general: bool = False
    origin: str = "given"
    round: int | None = None
    parent: str | None = None
    model: str | None = None
    seed: int | None = None
    probability: float | None = None
    valid: bool = True
    reason: str | None = None


def print_of(entries: Iterable[Entry]) -> str:
    """Identifies what the stages that follow see of a table; the order of its rows does not count."""
    return fingerprint(sorted({(" ".join(entry.concept.split()), entry.general, entry.valid) for entry in entries}))


@dataclass(frozen=True)
class BankFiles:
    """The files of the bank in one folder."""

    folder: Path

    @property
    def table(self) -> Path:
        """bank.csv."""
        return self.folder / "bank.csv"

    def edited(self, gaps: list[Entry]) -> list[Entry] | None:
        """A person's table; None where bank.csv is as it was written, or was deleted.

        gaps: what a second round found; added to the table if that round came after it.
        Raises ValueError naming the lines that cannot be read.
        """
        if not self.table.exists():
            return None
        entries, written = read_table(self.table), read_json(self.folder / "written.json") or {}
        if print_of(entries) in written.get("prints", ()):
            return None
        if written.get("gaps") != print_of(gaps):
            known = {merge_key(entry.concept) for entry in entries}
            entries += [entry for entry in gaps if merge_key(entry.concept) not in known]
        return entries

    def write(self, entries: list[Entry], gaps: list[Entry], by_hand: bool) -> None:
        """Writes the table. by_hand: it is a person's, whose bank.csv only gains what a second round found."""
        memory = self.folder / "written.json"
        written = read_json(memory) or {}
        prints = written.get("prints", [])
        record = {"prints": prints if by_hand else [*prints, print_of(entries)][-2:], "gaps": print_of(gaps)}
        # So that a second round does not find again what a person takes out.
        names = [entry.concept for entry in entries if not entry.general]
        record["names"] = written.get("names", []) if by_hand else names
        # Ours is announced before it is written and a person's after it: a kill never makes ours look like theirs.
        if not by_hand:
            write_json(memory, record)
        if not by_hand or written.get("gaps") != record["gaps"]:
            write_csv(self.table, entries)
        if by_hand:
            write_json(memory, record)
        columns = {name: [getattr(entry, name) for entry in entries] for name in SCHEMA.names}
        write_table(self.folder / "bank.parquet", pa.table(columns, schema=SCHEMA))

    def entries(self) -> list[Entry]:
        """The whole table. Raises FileNotFoundError before the stage ran."""
        return [Entry(**row) for row in self._read().to_pylist()]

    def taken_out(self) -> list[Entry]:
        """Concepts that we wrote and a person took out of the table, as refused ones."""
        there = {merge_key(entry.concept) for entry in self.entries()}
        names = (read_json(self.folder / "written.json") or {}).get("names", [])
        return [Entry(name, valid=False, reason="taken out") for name in names if merge_key(name) not in there]

    def valid(self, general: bool) -> list[str]:
        """The concepts of the bank, or of the general bank, in order. Raises FileNotFoundError before the stage ran."""
        table = self._read()
        mask = pc.and_(table["valid"], pc.equal(table["general"], general))
        return table.filter(mask)["concept"].to_pylist()

    def _read(self) -> pa.Table:
        path = self.folder / "bank.parquet"
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; run the 'concepts' stage first")
        return pq.read_table(path)


def write_csv(path: Path, entries: list[Entry]) -> None:
    """Writes the table for a person. The mark at its start keeps a spreadsheet from spoiling the accents."""
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(SCHEMA.names)
        writer.writerows([_cell(value) for value in dataclasses.astuple(entry)] for entry in entries)


def _cell(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def read_table(path: Path) -> list[Entry]:
    """A person's table. Only the column `concept` is needed; also semicolons or tabs between the cells.

    Raises ValueError naming the lines that cannot be read.
    """
    remedy = "correct it, or delete the file to go back to what was found"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"curation.concepts: {path} is no UTF-8 text ({error}); save it as CSV UTF-8") from None
    header = text.split("\n", 1)[0]
    rows = csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=header.count))
    if "concept" not in (rows.fieldnames or []):
        raise ValueError(f"curation.concepts: {path} has no column `concept` in its first line; {remedy}")
    entries: list[Entry] = []
    wrong: list[str] = []
    seen: dict[tuple[str, bool], int] = {}
    for row in rows:
        if not any(value for value in row.values() if isinstance(value, str)):
            continue  # an empty line
        try:
            entry = _read_row(row)
        except ValueError as error:
            wrong.append(f"line {rows.line_num}: {error}")
            continue
        first = seen.setdefault((entry.concept.casefold(), entry.general), rows.line_num)
        if first != rows.line_num:
            wrong.append(f"line {rows.line_num}: {entry.concept!r} stands in line {first} already")
        entries.append(entry)
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"curation.concepts: {path}, {'; '.join(wrong[:5])}{more}; {remedy}")
    return entries


def _read_row(row: dict[str, Any]) -> Entry:
    if any(isinstance(rest, str) and rest.strip() for rest in row.get(None) or ()):  # type: ignore[call-overload]
        raise ValueError("more cells than the first line; put quotes around a name with a comma")
    values: dict[str, Any] = {name: (row.get(name) or "").strip() or None for name in SCHEMA.names}
    concept = " ".join((values["concept"] or "").split())
    if not concept:
        raise ValueError("no concept")
    for name, default in (("general", "false"), ("valid", "true")):
        word = (values[name] or default).lower()
        if word not in WORDS:
            raise ValueError(f"{name} is {values[name]!r}, not true or false")
        values[name] = WORDS[word]
    for name, kind in (("round", int), ("seed", int), ("probability", float)):
        try:
            values[name] = None if values[name] is None else kind(values[name])
        except ValueError:  # a spreadsheet's 1,5E+09: of no use to what follows
            values[name] = None
    reason = None if values["valid"] else values["reason"] or "by hand"
    return Entry(**{**values, "concept": concept, "origin": values["origin"] or "added", "reason": reason})
