"""The embedded default: composed scenes with a known answer, and miniature models that understand them."""

from pathlib import Path


def weights_folder() -> Path:
    """Folder of the packaged miniature models."""
    return Path(__file__).resolve().parent / "weights"
