"""Lists of concepts that a person wrote: one a line, a yaml list, or a table."""

import csv
import re
from pathlib import Path
from typing import Any

import yaml


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
