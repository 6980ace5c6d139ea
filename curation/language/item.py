"""One item of a list: its name without markup and description, and whether it can be a concept at all."""

import re

LONGEST = 100
MOST_WORDS = 10
QUOTES = "\"'`“”„«»‘’「」『』"
PLACEHOLDER = re.compile(
    r"(?:etc|and so on|and more|n/?a|none|null|true|false|unknown|item|concept|example|name|[<\[{].*[>\]}])[\s\d.]*",
    re.IGNORECASE,
)


def clean_item(raw: str) -> str:
    """The name in one entry: no markup, no quotes, no description after a dash, a colon or in brackets."""
    text = re.sub(r"[\x00-\x1f\x7f\u200b-\u200f\u2028\u2029\ufeff\ufffd]", " ", raw)
    text = re.sub(r"!?\[([^\]]+)\]\([^)]*\)", r"\1", text)  # a link's text
    text = re.sub(r"</?[a-zA-Z][^>]{0,80}>", "", text)
    bold = re.match(r"\W*(\*\*|__)(?=\S)(.+?)\1(?=.*\w)", text)
    if bold and re.search(r"\w", text[bold.end() :]):  # **Pizza** is a flat bread
        text = bold[2]
    text = re.sub(r"\*+|~~|`+|(?<!\w)_+|_+(?!\w)", "", text)
    text = _name(_bare(text))
    return " ".join(_bare(text).split())


def _bare(text: str) -> str:
    """Without quotes around it and without punctuation at its ends."""
    before = None
    while before != text:
        before, text = text, text.strip().rstrip(".,;:!。、，；：|").lstrip(".,;:|")
        quoted = len(text) > 1 and text[0] in QUOTES and text[-1] in QUOTES
        text = text[1:-1] if quoted else text
    return text


def _name(text: str) -> str:
    """What stands before a description."""
    quoted = re.match(r"([\"“«「])(.{1,80}?)[\"”»」]\s*(?:[-–—:(,]|is\b)", text)
    if quoted:
        return quoted[2]
    text = re.split(r"\s+[-–—|]+\s+|—|:\s+|：|\s*=>\s*|\s*->\s*|\s*→\s*|\t", text, maxsplit=1)[0]
    text = re.sub(r"(?<=\S)\s*[(（\[][^()（）]*[)）\]]?\s*$", "", text)
    described = re.match(r"([^,]+),\s+(?:an?|the|which|that|also|known|or|made|served)\s", text)
    return described[1] if described else text


def why_not(item: str) -> str | None:
    """Why a cleaned entry is no name of anything; None where it may be one."""
    letters = [letter for letter in item if letter.isalpha()]
    if not letters:
        return "no letter"
    if len(item) > LONGEST or len(item.split()) > MOST_WORDS:
        return "too long"
    if len(item) == 1 and item.isascii():
        return "one letter"
    if PLACEHOLDER.fullmatch(item):
        return "a placeholder"
    if re.search(r"(.)\1{4,}", item) or re.search(r"://|www\.|@\w+\.", item):
        return "a repetition or an address"
    if len(letters) * 2 < len(item.replace(" ", "")):
        return "mostly no letters"
    if item.endswith("?") or re.match(r"(?i)(?:here (?:are|is)|i hope|let me know|sure\b|certainly\b)", item):
        return "a sentence"
    return None
