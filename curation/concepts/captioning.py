"""What a language model wrote as a caption, and whether it can be used: pure functions on texts."""

import functools
import itertools
import json
import re
from collections.abc import Callable, Collection
from typing import Any

from curation.concepts.names import plain_text, words_of
from curation.language.parsing import REFUSAL, without_thoughts

# Not every "Great ..." is a greeting: there are great egrets.
CHATTER = re.compile(
    r"(?i)(?:sure|certainly|of course|absolutely|here(?:['’]s| is| are| you)|i hope|let me know)\b|"
    r"(?:great|okay|ok|note|please note)(?:[!:,]| that\b)"
)
LABEL = re.compile(
    r"(?i)\W*(?:(?:sure|certainly|of course|okay|here)\b[^:\n]{0,80}|"
    r"[\w ]{0,20}(?:caption|description|answer|photo|scene)\s*\d*):[*_]*\s+"
)
MARK = re.compile(r"^(?:[-*+•>]\s+|#{1,6}\s+|\(?\d{1,3}[.)]\s+)")
QUOTED = re.compile(r"[\"“«「](.{20,})[\"”»」]")
# Words of a name that a caption may leave out.
SMALL_WORDS = frozenset("a an and the of in on with de la le al à".split())
# Scripts that write words without spaces between them: a name is looked for among the letters.
UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")


def clean_caption(text: str, finish: str = "stop") -> str:
    """The caption in an answer, in one line: no greeting, label, markup or quotes; empty where there is none.

    finish: "length" says that the answer was cut, so that its last sentence is not whole.
    """
    answer = re.sub(r"^\s*```\w*\s*$", "", without_thoughts(text), flags=re.MULTILINE).strip()
    lines = [line.strip() for line in (_from_json(answer) or answer).splitlines() if line.strip()]
    cut = finish == "length" and len(lines) == 1
    told = [line for line in lines if not line.endswith((":", "："))]
    plain = [line for line in told if not CHATTER.match(line) and not line.startswith("#")]
    told = plain or [line for line in told if LABEL.match(line) or line.startswith("#")]
    caption = LABEL.sub("", told[0], count=1) if told else ""
    caption = plain_text(re.sub(r"\*+|`+|(?<!\w)_+|_+(?!\w)", "", MARK.sub("", caption)))
    quoted = QUOTED.search(caption)
    if quoted and 2 * len(quoted[1]) > len(caption):
        caption = quoted[1].strip()
    if cut:
        whole = re.match(r".*[.!?。！？]", caption)
        caption = whole[0] if whole else ""
    return caption.strip('"“”«»「」 ')


def _from_json(text: str) -> str | None:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    while isinstance(value, dict | list) and value:
        value = next(iter(value.values())) if isinstance(value, dict) else value[0]
    return value if isinstance(value, str) else None


def names_concept(caption: str, concept: str) -> bool:
    """Whether a caption holds the words of a concept, in any order, form or spelling."""
    if UNSPACED.search(concept):
        return "".join(words_of(concept)) in "".join(words_of(caption))
    words = words_of(concept)
    wanted = {word for word in words if word not in SMALL_WORDS} or set(words)
    said = words_of(caption)
    return wanted <= set(said) or _holds_run(said, "".join(words), most=len(words) + 2)


def _holds_run(words: list[str], joined: str, most: int) -> bool:
    """Whether some words in a row, written together, are `joined`: "ice cream" is "icecream"."""
    runs = (itertools.accumulate(words[first : first + most]) for first in range(len(words)))
    return any(run == joined for part in runs for run in part)


def shorten(caption: str, fits: Callable[[str], bool]) -> str:
    """The caption without its last sentences, as many as it takes to fit; as it is where its first does not fit."""
    sentences = SENTENCE_END.split(caption)
    for count in range(len(sentences), 0, -1):
        short = " ".join(sentences[:count]) if SENTENCE_END.search(caption) else caption
        if fits(short):
            return short
    return caption


def why_not(caption: str, concept: str, earlier: Collection[str], fits: Callable[[str], bool]) -> str | None:
    """Why a caption cannot be used; None where it can. earlier: keys of the concept's captions (see caption_key)."""
    if not caption:
        return "no caption"
    if REFUSAL.search(caption):
        return "a refusal"
    if not names_concept(caption, concept):
        return "does not name the concept"
    if not fits(caption):
        return "too long"
    return "repeated" if caption_key(caption) in earlier else None


def caption_key(caption: str) -> str:
    """What captions that say the same in the same words have in common."""
    return " ".join(words_of(caption))


def clip_tokens(text: str) -> int:
    """Tokens of a text in CLIP's vocabulary, with the two that mark its start and end; CLIP reads 77."""
    return len(_tokenizer().encode(text)) + 2


@functools.cache
def _tokenizer() -> Any:
    import open_clip

    return open_clip.SimpleTokenizer()
