"""README.md of an export: its model card."""

from pas_train.exporting.source import Source
from pas_train.exporting.target import Target
from pas_train.exporting.verifying import Verified


def card(target: Target, source: Source, verified: Verified) -> str:
    """The text of the card."""
    return f"# {source.name}\n\n{verified}\n"
