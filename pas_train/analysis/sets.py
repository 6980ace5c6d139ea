"""The data sets that `analyse` looks at: images, which are synthetic, and the class or concept of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datamodules.datasets.names import parse_name, told_as, with_option
from datamodules.datasets.registry import known_set
from datamodules.image_source import ImageSource
from datamodules.labelled import read_labelled
from datamodules.sources import open_source
from pas_train import curated
from pas_train.analysis.naming import short_names

KEY = "analyse"
NONE = -1  # the class of an image that has none


@dataclass(frozen=True)
class ImageSet:
    """One data set.

    kind: "concepts" of a curated one, "classes" of a labelled one, "" where neither is known. classes: their names,
    those without an image too. labels: int64 [N], places in classes, or NONE. synthetic: bool [N]. workspace: of a
    curated one that is still there.
    """

    name: str
    source: str
    images: ImageSource
    kind: str
    classes: list[str]
    labels: np.ndarray
    synthetic: np.ndarray
    workspace: Path | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def words(self) -> list[str]:
        """The classes as texts, lower case."""
        return [curated.label_words(name).lower() for name in self.classes]


def read_sets(given: Sequence[str]) -> list[ImageSet]:
    """The sets of a command line, each NAME=SOURCE or SOURCE. Raises ValueError or FileNotFoundError."""
    pairs = [_named(text) for text in given]
    told = short_names([source for _, source in pairs])
    names = [name or usual for (name, _), usual in zip(pairs, told, strict=True)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{KEY}: two sets are called {twice[0]}; write them as NAME=SOURCE with names of their own")
    return [read_set(name, source) for name, (_, source) in zip(names, pairs, strict=True)]


def _named(text: str) -> tuple[str | None, str]:
    """(name, source) of NAME=SOURCE; a source by name has its own = only behind a ?."""
    before, equals, after = text.partition("=")
    if equals and after and "?" not in before and "/" not in before and not Path(text).exists():
        return before, after
    return None, text


def read_set(name: str, source: str) -> ImageSet:
    """One data set, with labels or concepts where it has them."""
    path, written = Path(source), parse_name(source, KEY)
    if path.suffix == ".parquet":
        return _curated(name, path)
    if written.known and "split" not in written.options:
        source = with_option(source, "split", known_set(written.kind).train)
    why = ""
    if written.kind or path.suffix == ".csv" or _has_class_folders(path):
        try:
            labelled = read_labelled(source, KEY)
        except ValueError as error:
            if not written.kind:
                raise
            why = str(error)
        else:
            synthetic = labelled.source.synthetic()
            return ImageSet(name, source, labelled.source, "classes", labelled.classes, labelled.labels, synthetic)
    with told_as(KEY):
        images = open_source(source)
    if why:
        print(f"{'set':<12}{name}: its classes are left out ({why})", flush=True)
    return ImageSet(name, source, images, "", [], np.full(len(images), NONE), images.synthetic())


def _has_class_folders(path: Path) -> bool:
    """Whether a folder holds folders alone, and at least two; shards and loose images are no classes."""
    if not path.is_dir():
        return False
    inside = [one for one in path.iterdir() if not one.name.startswith(".")]
    folders = [one for one in inside if one.is_dir()]
    files = [
        one for one in inside if one.is_file() and one.suffix.lower() in (".tar", ".jpg", ".jpeg", ".png", ".webp")
    ]
    return len(folders) > 1 and not files


def _curated(name: str, path: Path) -> ImageSet:
    images = open_source(str(path))
    workspace = curated.workspace_of(path)
    schema = pq.read_schema(path).names
    columns = [column for column in ("concept", "concepts", "size") if column in schema]
    table = pq.read_table(path, columns=columns)
    table = table.filter(pc.is_valid(table["size"]))
    best = table["concept"] if "concept" in columns else _first(table, columns)
    bank = curated.concept_names(workspace) if workspace is not None else []
    found = [] if best is None else pc.unique(best.drop_null()).to_pylist()
    classes = [*bank, *sorted(set(found) - set(bank))]
    labels = np.full(len(images), NONE)
    if best is not None and classes:
        places = pc.fill_null(pc.index_in(best, value_set=pa.array(classes, pa.string())), NONE)
        labels = places.to_numpy().astype(np.int64)
    return ImageSet(
        name, str(path), images, "concepts" if classes else "", classes, labels, images.synthetic(), workspace
    )


def _first(table: pa.Table, columns: list[str]) -> pa.ChunkedArray | None:
    """The first concept that found an image, where the out-of-domain scores, which name its best, were not made."""
    if "concepts" not in columns:
        return None
    lists = table["concepts"].to_pylist()
    return pa.chunked_array([pa.array([one[0] if one else None for one in lists], pa.string())])


def draw_rows(images: ImageSet, count: int | None, seed: int) -> np.ndarray:
    """Ascending int64 [n]: so many of a set's rows, drawn by the seed; all where it has no more, or without a count."""
    if count is None or count >= len(images):
        return np.arange(len(images))
    return np.sort(np.random.default_rng(seed).permutation(len(images))[:count])
