"""Short names of data sets, from what they are read from."""

from collections.abc import Sequence
from pathlib import Path

MANIFEST = "manifest.parquet"


def short_names(sources: Sequence[str]) -> list[str]:
    """A short name of each, no two alike: `runs/food/dataset/mini/manifest.parquet` is "food mini"."""
    names = [short_name(source) for source in sources]
    return [f"{name} ({place + 1})" if names.count(name) > 1 else name for place, name in enumerate(names)]


def short_name(source: str) -> str:
    """The name of a data set's folder, file or class."""
    for prefix in ("torchvision:", "hf:"):
        if source.startswith(prefix):
            return Path(source.removeprefix(prefix).partition("?")[0]).name
    path = Path(source)
    if path.name == MANIFEST and path.parent.parent.name == "dataset":
        return " ".join(part for part in (path.parent.parent.parent.name, path.parent.name) if part)
    return path.parent.name if path.name == MANIFEST else path.stem if path.is_file() else path.name or source
