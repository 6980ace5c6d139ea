"""When two written names are one concept: case, plural, accents, hyphens, articles and spelling are no difference.

The name that was read first is kept as it was written; the merge key only decides what is the same. It errs towards
two concepts: a double costs some images, a wrong merge loses a concept.
"""

import re
import unicodedata
from collections.abc import Iterable

ARTICLE = re.compile(r"\A(?:an?|the)\s+(?=\S)", re.IGNORECASE)
APOSTROPHES = re.compile(r"['’‘`´ʼ]")
QUOTES = "\"'`´“”„«»‘’‚「」『』"
JOINERS = "\u200c\u200d"  # the two invisible letters that Persian and Hindi words need
# Letters that no decomposition takes apart.
PLAIN = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ħ": "h"})
IRREGULAR = {
    "loaves": "loaf", "leaves": "leaf", "halves": "half", "calves": "calf", "knives": "knife", "wolves": "wolf",
    "shelves": "shelf", "scarves": "scarf", "geese": "goose", "mice": "mouse", "lice": "louse", "feet": "foot",
    "teeth": "tooth", "men": "man", "women": "woman", "children": "child", "oxen": "ox", "cacti": "cactu",
    "fungi": "fungu", "octopuses": "octopu", "octopi": "octopu",
}  # fmt: skip
# British to American, and words that are written in two ways; both sides as `_singular` gives them.
SPELLINGS = {
    "aluminium": "aluminum", "armour": "armor", "barbeque": "barbecue", "bbq": "barbecue", "catsup": "ketchup",
    "centre": "center", "chile": "chili", "chilli": "chili", "coloured": "colored", "colour": "color",
    "doughnut": "donut", "fibre": "fiber", "flavour": "flavor", "flavoured": "flavored", "grey": "gray",
    "harbour": "harbor", "jewellery": "jewelry", "mould": "mold", "n": "and", "omelette": "omelet",
    "plough": "plow", "savoury": "savory", "sulphur": "sulfur", "theatre": "theater", "tyre": "tire",
    "yoghurt": "yogurt", "yogourt": "yogurt",
}  # fmt: skip
# What a plural and its singular share, where taking the s away leaves two forms: quiche(s) and peach(es).
ENDINGS = (("ie", "y"), ("oe", "o"), ("che", "ch"), ("she", "sh"), ("sse", "ss"), ("xe", "x"), ("ze", "z"))


def readable(text: str) -> str:
    """A name as it is shown and sent: composed letters, single spaces, nothing invisible, no quotes around it."""
    # A first = + or @ would make a formula of the name where a spreadsheet opens the bank.
    text = plain_text(text).strip(".,;:!|=+@*_ ").lstrip("- ")
    if len(text) > 1 and text[0] in QUOTES and text[-1] in QUOTES:
        text = text[1:-1].strip()
    return text


def plain_text(text: str) -> str:
    """A text in one line: composed letters, single spaces, nothing invisible."""
    return " ".join("".join(map(_visible, unicodedata.normalize("NFC", text))).split())


def _visible(letter: str) -> str:
    kind = unicodedata.category(letter)
    if kind in ("Cc", "Zl", "Zp", "Zs"):
        return " "
    return letter if kind[0] != "C" or letter in JOINERS else ""


def merge_key(text: str) -> str:
    """What all spellings of a name have in common; empty where it holds neither letter nor digit."""
    return "".join(words_of(ARTICLE.sub("", readable(text), count=1)))


def words_of(text: str) -> list[str]:
    """The words of a text in the form in which they are compared: folded, singular, of one spelling."""
    folded = _without_accents(unicodedata.normalize("NFKC", text).casefold()).translate(PLAIN).replace("&", " and ")
    letters = (letter if _in_word(letter) else " " for letter in APOSTROPHES.sub("", folded))
    return [_one_form(word) for word in "".join(letters).split()]


def distinct(names: Iterable[str], known: Iterable[str] = ()) -> dict[str, str]:
    """Merge key -> readable name of the names that are new, in their order. known: merge keys.

    A name that a model shouts ("BREADED PLUM") is written in small letters; an abbreviation ("BLT") is not.
    """
    seen = set(known)
    new: dict[str, str] = {}
    for name in names:
        key = merge_key(name)
        if key and key not in seen:
            seen.add(key)
            new[key] = _calm(readable(name))
    return new


def _calm(name: str) -> str:
    return name.lower() if name.isupper() and max(map(len, name.split())) > 4 else name


def _in_word(letter: str) -> bool:
    # The vowel signs of Hindi or Thai are marks, not letters, for `str.isalnum`.
    return letter.isalnum() or unicodedata.category(letter)[0] == "M"


def _without_accents(text: str) -> str:
    """Without the marks on Latin and Greek letters; in other scripts a mark makes another letter, and stays."""
    if text.isascii():
        return text
    kept: list[str] = []
    base = ""
    for letter in unicodedata.normalize("NFD", text):
        if not unicodedata.combining(letter):
            base = unicodedata.name(letter, "")
        elif base.startswith(("LATIN", "GREEK")):
            continue
        kept.append(letter)
    return unicodedata.normalize("NFC", "".join(kept))


def _one_form(word: str) -> str:
    single = _singular(word) if word.isascii() else word
    return SPELLINGS.get(single, single)


def _singular(word: str) -> str:
    """The word without a plural's ending. No English word need come out: "cookie" and "cookies" are both "cooky"."""
    if word in IRREGULAR:
        return IRREGULAR[word]
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    for ending, short in ENDINGS:
        if len(word) > 2 and word.endswith(ending):
            return word[: -len(ending)] + short
    return word
