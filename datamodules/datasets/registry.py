"""The known data sets by name. Imports no torch."""

from functools import cache
from importlib import import_module

from datamodules.datasets.known_set import KnownSet
from datamodules.datasets.names import with_option


@cache
def known_set(name: str) -> KnownSet:
    """A known data set; `names.KNOWN` lists them."""
    found: KnownSet = import_module(f"datamodules.datasets.{name.replace('-', '_')}").SET
    return found


def official_split(name: str, root: str, test: bool) -> str:
    """What is written for the official training or test images of a known data set below a root."""
    known = known_set(name)
    return with_option(f"{name}:{root}", "split", known.test if test else known.train)
