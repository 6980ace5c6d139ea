"""The files of a local model: where they are, whether they are whole, what identifies them. Imports no torch."""

from typing import Any


def identify(model: str, revision: str | None) -> dict[str, Any]:
    """Revision or checksums of a local model."""
    return {"revision": revision}


def check_weights(model: str, revision: str | None, key: str) -> None:
    """Raises FileNotFoundError, naming `key` and the remedy, where a model's files cannot be had."""
