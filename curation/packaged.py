"""Files that come with the package, by the name `packaged:...`, so that a yaml needs no path into site-packages."""

from pathlib import Path

PREFIX = "packaged:"


def resolve(name: str) -> str:
    """A path for `packaged:FILE` (a weight of the miniature models or a concept list); any other name unchanged."""
    if not name.startswith(PREFIX):
        return name
    here = Path(__file__).resolve().parent
    folders = (here / "miniature" / "weights", here.parent / "configs" / "concepts")
    for folder in folders:
        found = folder / name.removeprefix(PREFIX)
        if found.exists():
            return str(found)
    choices = sorted(path.name for folder in folders if folder.exists() for path in folder.iterdir())
    raise FileNotFoundError(f"{name} does not come with the package; choices: {', '.join(choices) or 'none'}")
