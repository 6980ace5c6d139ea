"""What every export target gives: what it can take, the files it writes, and how they are verified."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from pas_train.exporting.source import Source


class Target(ABC):
    """A format. One class a target; it holds no state.

    name: as --to has it. title: of the library, for people. library: the package that loads the files; None where
    torch alone does. writers: packages that `write` needs. install: how to get what is missing. loader: the module of
    `pas_train.exporting.loaders` that an exported folder carries as load.py:

        load(folder) -> model       raises where a key is missing or left over
        features(model, images) -> {name: Tensor}, some of those of `Source.outputs`; images float32 [N, 3, S, S]

    tolerance: greatest difference of a feature, as a share of the largest feature.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    library: ClassVar[str | None] = None
    writers: ClassVar[tuple[str, ...]] = ()
    install: ClassVar[str] = ""
    loader: ClassVar[str]
    tolerance: ClassVar[float] = 1e-4

    @abstractmethod
    def check(self, source: Source) -> None:
        """Raises ValueError, naming --to and what to take instead, where the format has no place for the backbone."""

    @abstractmethod
    def write(self, source: Source, folder: Path) -> None:
        """Writes weights and configuration into an empty folder, source.metadata inside where the format has a place.

        README.md, metadata.json, load.py, verify.py and verification.npz are written for all targets alike.
        """

    def installed(self) -> bool:
        """Whether the library that loads the files is here."""
        return self.library is None or find_spec(self.library) is not None

    def features(self, source: Source) -> tuple[str, ...]:
        """Which of `Source.outputs` load.py gives."""
        return ("embedding", "map")


class NamedTarget(Target):
    """A target whose library may be missing: it knows the names that were recorded from the library."""

    @abstractmethod
    def recorded(self, source: Source) -> dict[str, tuple[int, ...]]:
        """Names and shapes that the library's own model has, as recorded from it."""

    @abstractmethod
    def read(self, folder: Path) -> Mapping[str, Tensor]:
        """The tensors of the written file by the library's names."""

    @abstractmethod
    def restore(self, tensors: Mapping[str, Tensor], source: Source) -> dict[str, Tensor]:
        """The written tensors under timm's names: the way back, by the recorded map rather than by `write`'s."""
