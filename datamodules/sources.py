"""Data sets by name: the strings of `data.source`, alone, in a list, or with weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from datamodules.files import within
from datamodules.image_source import ImageSource, JoinedSources
from datamodules.rows import KINDS, read_rows

PREFIXES = ("torchvision:", "hf:")
HF_OPTIONS = ("split", "column", "config")


@dataclass(frozen=True)
class SourceItem:
    """One of several data sets.

    Args:
        source: As a `data.source` that stands alone.
        weight: Its share of an epoch, relative to the others'; null: as many as it has images, in all of them.
        synthetic: Whether its images are generated; null: as its manifest says, else real.
    """

    source: str
    weight: float | None = None
    synthetic: bool | None = None


Sources = str | Sequence[str | SourceItem]


def source_items(source: Sources | None) -> list[SourceItem]:
    """The data sets of the setting, checked. Raises ValueError naming `data.source`."""
    if source is None:
        raise ValueError(f"data.source is missing; give {KINDS}, or a list of them")
    given = [source] if isinstance(source, str) else source
    items = [SourceItem(item) if isinstance(item, str) else item for item in given]
    if not items or not all(item.source for item in items):
        raise ValueError(f"data.source is empty; give {KINDS}, or a list of them")
    weights = [item.weight for item in items]
    for item in items:
        if item.weight is not None and not 0 < item.weight < float("inf"):
            raise ValueError(
                f"data.source: the weight of {item.source} must be above 0, got {item.weight}; leave a data set out "
                "of the list to train without it"
            )
    if any(weight is None for weight in weights) and any(weight is not None for weight in weights):
        bare = next(item.source for item in items if item.weight is None)
        raise ValueError(f"data.source: {bare} has no weight, but others have; give every data set one, or none")
    return items


def check_sources(source: Sources | None) -> None:
    """Raises ValueError or FileNotFoundError naming `data.source` where it is empty, or names a path that is not there.

    Reads nothing, so that a training of many processes ends before it begins.
    """
    for item in source_items(source):
        kind, name, options = _parsed(item.source)
        if kind == "torchvision":
            from datamodules.torchvision_source import find_class

            find_class(name, options, item.source)
        elif not kind and not Path(item.source).exists():
            read_rows(item.source)  # says what is missing


def names_of(source: Sources | None) -> list[str]:
    """The data sets of the setting without their weights."""
    given = [source] if isinstance(source, str) else source or []
    return [item if isinstance(item, str) else item.source for item in given]


def placed(source: Sources | None, workspace: Path) -> Sources | None:
    """The setting with every `workspace:` path made real."""
    if source is None or isinstance(source, str):
        return None if source is None else _placed(source, workspace)
    items = [SourceItem(item) if isinstance(item, str) else item for item in source]
    return [SourceItem(_placed(item.source, workspace), item.weight, item.synthetic) for item in items]


def _placed(source: str, workspace: Path) -> str:
    return source if source.startswith(PREFIXES) else str(within(source, workspace))


def open_source(source: str) -> ImageSource:
    """One data set. Raises ValueError or FileNotFoundError naming `data.source`."""
    kind, name, options = _parsed(source)
    if kind == "torchvision":
        from datamodules.torchvision_source import TorchvisionSource

        return TorchvisionSource(name, options, source)
    if kind == "hf":
        from datamodules.hf_source import HuggingFaceSource

        return HuggingFaceSource(
            name, options.get("split", "train"), options.get("column"), options.get("config"), source
        )
    return read_rows(source)


def open_sources(
    source: Sources | None, prepare: Callable[[str, ImageSource], ImageSource] | None = None
) -> ImageSource:
    """All data sets of the setting as one. Raises ValueError or FileNotFoundError naming `data.source`.

    prepare: what each is put through, by its name.
    """
    items = source_items(source)
    parts = [open_source(item.source) for item in items]
    if prepare is not None:
        parts = [prepare(item.source, part) for item, part in zip(items, parts, strict=True)]
    if len(parts) == 1 and items[0].synthetic is None:
        return parts[0]
    return JoinedSources(parts, [item.synthetic for item in items])


def _parsed(source: str) -> tuple[str, str, dict[str, str]]:
    """("torchvision" or "hf", name, options), or ("", path, {})."""
    if not source.startswith(PREFIXES):
        return "", source, {}
    kind, _, rest = source.partition(":")
    name, _, query = rest.partition("?")
    options = {}
    for pair in filter(None, query.split("&")):
        key, equals, value = pair.partition("=")
        if not equals or not value:
            raise ValueError(f"data.source: {source}: {pair} is no KEY=VALUE; write {kind}:{name}?KEY=VALUE")
        options[key] = unquote(value)
    unknown = sorted(set(options) - set(HF_OPTIONS)) if kind == "hf" else []
    if unknown:
        raise ValueError(f"data.source: {source}: no option {', '.join(unknown)}; there are {', '.join(HF_OPTIONS)}")
    return kind, name, options
