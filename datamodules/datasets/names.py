"""How a data set is written: a path, FILE.json?images=DIR, or KIND:NAME?KEY=VALUE&KEY=VALUE. Imports no torch."""

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from datamodules.files import within

KNOWN = (
    "food-101", "foodx-251", "food-2k", "cub-200-2011", "nabirds", "inat-2021-birds", "foodseg103", "oktoberfest",
    "imagenet-1k",
)  # fmt: skip
HF_OPTIONS = ("split", "column", "label", "config")
OPTIONS = ("split", "partial", "download")  # of a known set
COCO = re.compile(r"(?P<file>.+\.json)(?:\?images=(?P<images>.+))?", re.IGNORECASE | re.DOTALL)
WRITTEN_AS = re.compile(r"([A-Za-z][\w.-]+):(?=[^/\\]|/[^/])")  # two letters at least, and no address of the web


@dataclass(frozen=True)
class SetName:
    """A data set as a person wrote it.

    kind: "torchvision", "hf", the name of a known set, or "" where it is a path. name: the class, the data set, the
    folder or file. text: all of it, for errors. options: of a COCO file its folder of images, where one is given.
    """

    kind: str
    name: str
    text: str
    options: dict[str, str] = field(default_factory=dict)

    @property
    def coco(self) -> bool:
        """Whether it is a COCO JSON file."""
        return not self.kind and self.name.lower().endswith(".json")

    @property
    def known(self) -> bool:
        """Whether its official files are known."""
        return self.kind in KNOWN

    def flag(self, option: str, key: str) -> bool:
        """The value of an option that is true or false. Raises ValueError naming the yaml key."""
        value = self.options.get(option, "false").lower()
        if value not in ("true", "false"):
            raise ValueError(f"{key}: {self.text}: {option} must be true or false, got {value}")
        return value == "true"


def is_named(text: str | Path) -> bool:
    """Whether a text names a data set, rather than a path."""
    kind, colon, _ = str(text).partition(":")
    return bool(colon) and kind in ("torchvision", "hf", *KNOWN)


def parse_name(text: str | Path, key: str) -> SetName:
    """The parts of a text. Raises ValueError naming the yaml key, with close names for a set that there is not."""
    text = str(text)
    coco = COCO.fullmatch(text)
    if coco is not None and not is_named(text):
        return SetName("", coco["file"], text, {"images": coco["images"]} if coco["images"] else {})
    if not is_named(text):
        _refuse_unknown(text, key)
        return SetName("", text, text)
    kind, _, rest = text.partition(":")
    name, _, query = rest.partition("?")
    options = {}
    for pair in filter(None, query.split("&")):
        option, equals, value = pair.partition("=")
        if not equals or not value:
            raise ValueError(f"{key}: {text}: {pair} is no KEY=VALUE; write {kind}:{name}?KEY=VALUE")
        options[option] = unquote(value)
    if not name:
        raise ValueError(f"{key}: {text} names no {'folder' if kind in KNOWN else 'data set'}; write {kind}:NAME")
    allowed = HF_OPTIONS if kind == "hf" else OPTIONS if kind in KNOWN else None  # torchvision's are its classes'
    unknown = sorted(set(options) - set(allowed)) if allowed else []
    if allowed and unknown:
        raise ValueError(f"{key}: {text}: no option {', '.join(unknown)}; there are {', '.join(allowed)}")
    return SetName(kind, name, text, options)


def _refuse_unknown(text: str, key: str) -> None:
    """Raises ValueError for KIND:NAME with a kind that there is not, and no such path either."""
    found = WRITTEN_AS.match(text)
    if found is None or found[1] == "workspace" or Path(text).exists() or Path(found[0]).exists():
        return
    kinds = (*KNOWN, "torchvision", "hf")
    close = difflib.get_close_matches(found[1].lower(), kinds, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}? There are" if close else "there are"
    raise ValueError(f"{key}: {text}: no data set {found[1]}, and no such path; {hint} {', '.join(kinds)}")


def placed(text: str, workspace: Path) -> str:
    """The text with `workspace:` made real; names are as they were."""
    if is_named(text):
        return text
    coco = COCO.fullmatch(text)
    if coco is None or coco["images"] is None:
        return str(within(text, workspace))
    return f"{within(coco['file'], workspace)}?images={within(coco['images'], workspace)}"


def same_images(one: str, other: str) -> bool:
    """Whether two texts name the same images, by their words alone: of a known data set, its folder and split."""
    if not (is_named(one) and is_named(other)):
        return one == other
    first, second = parse_name(one, "data.source"), parse_name(other, "data.source")
    if not (first.known and second.known):
        return one == other
    return (
        first.kind == second.kind
        and Path(first.name).resolve() == Path(second.name).resolve()
        and first.options.get("split") == second.options.get("split")
    )


def with_option(text: str, option: str, value: str) -> str:
    """A name with one more option."""
    return f"{text}{'&' if '?' in text else '?'}{option}={value}"


@contextmanager
def told_as(key: str) -> Iterator[None]:
    """Lets errors that name `data.source` name another yaml key."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        if key == "data.source" or not str(error).startswith("data.source"):
            raise
        raise type(error)(key + str(error).removeprefix("data.source")) from error
