"""How far a stage is, for the person at the console. Imports no torch."""

from datamodules.progress import Progress

__all__ = ["Progress"]
