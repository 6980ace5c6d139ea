"""The concept bank, given as a list."""

import csv
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import yaml

from curation.packaged import resolve
from curation.stage import Context, Stage
from curation.workspace import write_table


@dataclass(frozen=True)
class Concepts(Stage):
    """The bank B of the domain's concepts and the general bank B' (paper section 3).

    Args:
        file: Concepts, one a line (.txt; # begins a comment), a yaml list, or a .csv with a column `concept`.
        words: Concepts written in the yaml itself; added to those of the file.
        general: The general bank B' of the second score; the domain's name and description when empty.
    """

    name: ClassVar[str] = "concepts"
    file: str | None = None
    words: list[str] = field(default_factory=list)
    general: list[str] = field(default_factory=list)

    def identity(self, context: Context) -> dict[str, Any]:
        """The words themselves: an edited file runs what follows again."""
        return {"concepts": self.bank(), "general": self.general_bank(context)}

    def check(self, context: Context) -> None:
        """Reads the file."""
        self.bank()

    def bank(self) -> list[str]:
        """The domain's concepts. Raises ValueError for blank or repeated entries, naming file and lines."""
        words = list(self.words)
        if self.file is not None:
            words += read_concepts(Path(resolve(self.file)))
        if not words:
            raise ValueError("curation.concepts has no concept; give `file:` (one concept a line) or `words:`")
        return words

    def general_bank(self, context: Context) -> list[str]:
        """Open in the paper: B' is the domain's name and description unless given."""
        return self.general or [word for word in (context.domain, context.description) if word]

    def run(self, context: Context) -> dict[str, Any]:
        """Writes concepts/bank.parquet."""
        bank, general = self.bank(), self.general_bank(context)
        words = bank + general
        table = pa.table(
            {
                "concept": words,
                "general": [False] * len(bank) + [True] * len(general),
                "origin": ["given"] * len(words),
                "valid": [True] * len(words),
            }
        )
        folder = context.workspace.stage_folder(self.name)
        context.session.on_zero(lambda: write_table(folder / "bank.parquet", table))
        return {"rows": len(words), "summary": f"{len(bank)} concepts, {len(general)} general"}


def read_concepts(path: Path) -> list[str]:
    """The concepts of a .txt, .yaml or .csv file. Raises ValueError naming the lines that are blank or repeated."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"curation.concepts.file: {path} does not exist") from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise ValueError(f"curation.concepts.file: {path} is no UTF-8 text file ({error})") from None
    if path.suffix in (".yaml", ".yml"):
        items = yaml.safe_load(text)
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise ValueError(f"curation.concepts.file: {path} must hold a yaml list of strings")
        entries = [(number, item) for number, item in enumerate(items, 1)]
    elif path.suffix == ".csv":
        rows = list(csv.DictReader(text.splitlines()))
        if rows and "concept" not in rows[0]:
            raise ValueError(f"curation.concepts.file: {path} has no column `concept`; it has {', '.join(rows[0])}")
        entries = [(number, row["concept"] or "") for number, row in enumerate(rows, 2)]
    else:
        lines = text.rstrip("\n").split("\n")
        entries = [(number, line) for number, line in enumerate(lines, 1) if not line.startswith("#")]
    blank: list[int] = []
    seen: dict[str, int] = {}
    repeated: list[str] = []
    words: list[str] = []
    for number, entry in entries:
        word = re.sub(r"\s+", " ", entry).strip()
        if not word:
            blank.append(number)
        elif word.casefold() in seen:
            repeated.append(f"{number} (as {seen[word.casefold()]})")
        else:
            seen[word.casefold()] = number
            words.append(word)
    if blank or repeated:
        wrong = [f"blank lines {_list(blank)}"] * bool(blank) + [f"repeated lines {_list(repeated)}"] * bool(repeated)
        raise ValueError(
            f"curation.concepts.file: {path} has {' and '.join(wrong)}; every line must hold one concept that no other "
            "line holds (upper and lower case count as the same): remove them"
        )
    return words


def _list(items: list[Any]) -> str:
    return ", ".join(map(str, items[:8])) + (f" and {len(items) - 8} more" if len(items) > 8 else "")
