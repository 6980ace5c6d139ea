"""What a language model meant: the items of a list in any of the forms that models write, or a yes or no.

Answers are data and never trusted: what is no item is rejected and handed back for inspection. Imports no torch.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from curation.language.item import clean_item, why_not

BULLET = re.compile(
    r"^\s*(?:>\s*)*(?:\*{0,2}#?[(\[]?\d{1,4}\s?[.):\]、．]|[-*+•·‣▪◦●○■–—]|#\d{1,4}(?=\s)|\d{1,4}\s[-–]|\(?[A-Za-z][.)])"
    r"\s*(?:\[[ xX]?\]\s*)?(?=\S)"
)
# A bullet without a space after it is markdown's emphasis or a hyphen, not a list: "**Fruit**", "-5".
SPACED = re.compile(r"^\s*(?:>\s*)*(?:[-+–—]|\*(?!\*\d)|\(?[A-Za-z][.)])\S")
INLINE = re.compile(r"(?:^|(?<=\s))\(?(\d{1,3})[.)]\s+")
HEADING = re.compile(r"^\s*(?:#{1,6}\s|\**[^*\n]{1,80}:\**\s*$|\*\*[^*\n]+\*\*\s*$|[-=_*~]{3,}\s*$)")
BRACKET = re.compile(r"[\[{]")
TABLE_RULE = re.compile(r"^[\s|:\-+=]+$")
GREETING = re.compile(
    r"(?:sure|certainly|of course|here (?:are|is)|below|i hope|let me|these|this|note|please)\b", re.IGNORECASE
)
REFUSAL = re.compile(
    r"\b(?:I(?:['’]m| am) (?:sorry|unable|not able|afraid)|I (?:cannot|can['’]?t|can not|won['’]t|apologi[sz]e)|"
    r"as an? (?:AI|artificial|language model)|unable to (?:help|assist|provide|comply))",
    re.IGNORECASE,
)
# Names that a JSON object gives to what it is about.
NAMES = ("name", "concept", "item", "title", "label", "term", "word", "species", "value", "text")
FIELD = re.compile(r"\W*\w[\w ]{0,30}:\W*\s")  # "Origin: Italy", below an item
COMMA = re.compile(r"\s*[,;，、；،]\s*(?:(?:and|or)\s+)?|\s+(?:and|or)\s+(?=\S+(?:\s\S+){0,2}\W*$)")
CLAUSE = re.compile(  # what stands between the commas of a sentence
    r"(?:with|which|that|from|in|on|at|but|as|to|so|it|they|there|who|while|where|when|if|i|we|you|is|are)\s",
    re.IGNORECASE,
)
LONGEST_KEPT = 300
MOST_REJECTED = 100
LONGEST_RAW = 1000  # an entry beyond this is no item, whatever stands in it
MOST_LINES = 20_000
MOST_BRACKETS = 1000


@dataclass(frozen=True)
class Parsed:
    """items: in order, none twice. rejected: the first 100 entries that are no items, cut to 300 characters."""

    items: list[str]
    rejected: list[str]


def parse_items(text: str, finish: str = "stop") -> Parsed:
    """The items of a list: numbered, bulleted, in JSON, a table, between commas or one a line.

    "Name - description" and "Name: description" give the name. A refusal gives nothing. finish: "length" says that
    the answer was cut, so that its last item is not trusted.
    """
    answer = re.sub(r"[^\S\n]{9,}", " " * 8, without_thoughts(text)).strip()
    found = _from_json(answer, finish == "length")
    cut = False
    if found is None:
        found, rejected = _from_lines(answer)
        cut = finish == "length" and not text.endswith("\n")
    else:  # JSON's escapes may hold half of a surrogate pair, which no file can
        found, rejected = [item.encode("utf-8", errors="ignore").decode() for item in found], []
    if cut and found:
        rejected.append(found.pop())
    items: dict[str, str] = {}
    for raw in filter(str.strip, found):
        item = clean_item(raw) if len(raw) <= LONGEST_RAW else ""
        if not item or REFUSAL.search(raw) or why_not(item):
            rejected.append(raw)
        else:
            items.setdefault(item.casefold(), item)
    kept = [" ".join(line.split())[:LONGEST_KEPT] for line in rejected[:MOST_REJECTED]]
    return Parsed(list(items.values()), [line for line in kept if line])


def without_thoughts(text: str) -> str:
    """The text without what a reasoning model thought before its answer; nothing where it was cut while thinking."""
    text = re.sub(r"<(think|thinking|reasoning)>.*?(?:</\1>|\Z)", "", text, flags=re.DOTALL | re.IGNORECASE)
    return re.split(r"</think(?:ing)?>", text, flags=re.IGNORECASE)[-1]


def _from_json(text: str, cut: bool) -> list[str] | None:
    """Items of the JSON values in a text, or None where there are none. cut: strings of a broken list count too."""
    decoder = json.JSONDecoder()
    found: list[str] = []
    place, seen, broken = 0, False, 0
    while broken < MOST_BRACKETS and (match := BRACKET.search(text, place)) is not None:
        try:
            value, place = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            broken += 1
            rest = text[match.start() :]
            if cut and re.match(r'\[\s*"', rest) and not seen:  # a list that was cut: its whole strings
                return [json.loads(f'"{inner}"') for inner in re.findall(r'"((?:[^"\\\n]|\\["\\/bfnrt])*)"\s*,', rest)]
            place = match.end()
            continue
        items = list(_strings(value))
        seen = seen or bool(items)
        found += items
    return found if seen else None


def _strings(value: Any) -> Iterator[str]:
    """The names in a JSON value: strings of lists, the name of an object, or the keys of name: description."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for entry in value:
            yield from _strings(entry)
    elif isinstance(value, dict):
        known = next((value[name] for name in value if name.casefold() in NAMES and isinstance(value[name], str)), None)
        inner = [entry for entry in value.values() if isinstance(entry, list | dict)]
        if known is not None:
            yield known
        elif inner:
            for entry in inner:
                yield from _strings(entry)
        elif all(re.fullmatch(r"\D{0,10}\d+", key) for key in value):  # "1": "pizza", "item2": "sushi"
            yield from (entry for entry in value.values() if isinstance(entry, str))
        else:
            yield from (key for key, entry in value.items() if isinstance(entry, str))


def _from_lines(text: str) -> tuple[list[str], list[str]]:
    """(items, rejected) of a text that is no JSON."""
    lines = [part for line in text.splitlines() for part in _split_inline(line)]
    lines = [line for line in lines if line.strip() and not line.strip().startswith("```")][:MOST_LINES]
    marked = [(line, _unmark(line)) for line in lines]
    depths = [_depth(line) for line, item in marked if item is not None]
    if depths:
        items, rejected = [], []
        for line, item in marked:
            if item is None or (_depth(line) > min(depths) and FIELD.match(item)):
                rejected += [] if item is None and _is_chatter(line) else [line]
            else:
                items.append(item)
        return items, rejected
    rows = [cells for line in lines if (cells := _cells(line))]
    if rows:
        return [cells[0] for cells in rows[_header_rows(lines) :]], []
    if REFUSAL.search(text):
        return [], [text]
    return _from_plain(re.sub(r"([,;，、；،])\s*\n\s*", r"\1 ", "\n".join(lines)).split("\n"))


def _from_plain(lines: list[str]) -> tuple[list[str], list[str]]:
    """Items between commas, or one a line; prose is rejected."""
    items: list[str] = []
    rejected: list[str] = []
    for line in lines:
        listed = re.sub(r"^[^,，、]{0,120}[:：]\s", "", line)
        commas = len(re.findall(r"[,;，、；،]", listed))
        parts = [part for part in COMMA.split(listed.rstrip(" .")) if part.strip()]
        names = [part for part in parts if len(part.split()) <= 5 and not CLAUSE.match(part)]
        if (commas > 1 or commas == len(lines) == 1) and 3 * len(names) > 2 * len(parts):
            items += parts
        elif HEADING.match(line) or _is_chatter(line):
            continue
        elif commas > 1 or len(_bare_name(line).split()) > (3 if line.rstrip().endswith(".") else 6):
            rejected.append(line)
        else:
            items.append(line)
    return items, rejected if items or rejected else [line for line in lines if line.strip()]


def _bare_name(line: str) -> str:
    return clean_item(line) if len(line) <= LONGEST_RAW else line


def _split_inline(line: str) -> list[str]:
    """1. pizza 2. sushi 3. salad, written in one line, as three lines; also bullets, also after a greeting."""
    if line.count("•") > 1:
        start, *rest = line.split("•")
        return [start, *("• " + part for part in rest)]
    places = [(match.start(), int(match[1])) for match in INLINE.finditer(line)]
    numbers = [number for _, number in places]
    greeted = numbers == [1] and re.match(r".*[!:.]\s*$", line[: places[0][0]]) is not None
    if not greeted and (len(places) < 3 or numbers != list(range(numbers[0], numbers[0] + len(numbers)))):
        return [line]
    starts = [start for start, _ in places]
    return [line[: starts[0]], *(line[a:b] for a, b in zip(starts, [*starts[1:], len(line)], strict=True))]


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def _unmark(line: str) -> str | None:
    """What stands after a bullet or number; None for a line without."""
    match = BULLET.match(line)
    if match is None or SPACED.match(line) or TABLE_RULE.match(line):
        return None
    return line[match.end() :]


def _cells(line: str) -> list[str]:
    """The cells of a table's row that hold letters."""
    if line.count("|") < 2 or TABLE_RULE.match(line):
        return []
    return [cell.strip() for cell in line.strip().strip("|").split("|") if re.search(r"[^\W\d_]", cell)]


def _header_rows(lines: list[str]) -> int:
    rule = next((number for number, line in enumerate(lines) if "|" in line and TABLE_RULE.match(line)), None)
    return 0 if rule is None else sum(1 for line in lines[:rule] if _cells(line))


def _is_chatter(line: str) -> bool:
    """Whether a line speaks to the reader: a heading, a greeting, a sentence."""
    bare = line.strip()
    if HEADING.match(line) or bare.endswith((":", "：", "?", "!")):
        return True
    return GREETING.match(bare) is not None


def parse_yes_no(text: str) -> bool | None:
    """Whether an answer says yes (true) or no (false); None where it says neither, or both."""
    answer = without_thoughts(text).strip()
    try:
        value = json.loads(re.sub(r"^```\w*|```$", "", answer).strip())
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        value = next((entry for entry in value.values() if isinstance(entry, bool | str)), None)
    if isinstance(value, bool):
        return value
    words = value if isinstance(value, str) else answer
    if re.match(r"(?i)\W*yes\s+(?:and|or)\s+no\b", words):
        return None
    verdict = re.match(r"(?i)\W*(?:(?:final |my |the )?(?:answer|verdict)(?: is)?\W*)?(yes|no|true|false)\b", words)
    if verdict is None:  # a reason first, then the verdict in a line or sentence of its own
        verdict = re.search(r"(?i)(?:\banswer(?: is)?\W{1,5}|[.\n]\W*)(yes|no|true|false)\W*$", words[-200:])
    return verdict[1].lower() in ("yes", "true") if verdict else None
