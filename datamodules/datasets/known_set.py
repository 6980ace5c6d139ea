"""What is known of a data set: its official files, how many images they list, and where they come from.

Imports no torch.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np

from datamodules.datasets.downloads import Archive, download
from datamodules.datasets.names import SetName

SHOWN = 3  # examples in an error


@dataclass(frozen=True)
class Listing:
    """The images of one split.

    folder: what the files lie in. files: relative to it. labels: int64 [N], places in classes; None where the split
    has none. classes: names as text. masks: a file each, relative to the folder; uint8 classes by pixel. boxes:
    float32 [K, 5] each, x1, y1, x2, y2 in pixels and the place in classes; crowds: the same of regions where nobody
    counted. sizes: height and width of each image as the annotator saw it. The last four are None but of sets for them.
    """

    folder: Path
    files: list[str]
    labels: np.ndarray | None
    classes: list[str]
    masks: list[str] | None = None
    boxes: list[np.ndarray] | None = None
    crowds: list[np.ndarray] | None = None
    sizes: list[tuple[int, int] | None] | None = None

    def __len__(self) -> int:
        return len(self.files)

    @property
    def paths(self) -> list[Path]:
        """The image files."""
        return [self.folder / file for file in self.files]

    def take(self, rows: list[int]) -> "Listing":
        """The images of some rows."""
        return replace(
            self,
            files=[self.files[row] for row in rows],
            labels=None if self.labels is None else self.labels[rows],
            masks=None if self.masks is None else [self.masks[row] for row in rows],
            boxes=None if self.boxes is None else [self.boxes[row] for row in rows],
            crowds=None if self.crowds is None else [self.crowds[row] for row in rows],
            sizes=None if self.sizes is None else [self.sizes[row] for row in rows],
        )


@dataclass(frozen=True)
class KnownSet:
    """A data set whose official files are known.

    Args:
        name: As it is written in settings.
        title: As papers write it.
        folder: The name of its official folder; a root may be it, or hold it.
        landmarks: Files or folders of which the official folder holds at least one.
        splits: Name -> its official number of images; None where that is not known.
        train: The split that an evaluation fits on.
        test: The split that it judges on.
        classes: Their official number.
        layout: Paths that are expected, one a line.
        origin: Where and how the files are to be had.
        read: (official folder, split) -> its images, as its files list them.
        archives: Split -> the archives that hold it; empty where the source allows no automatic download.
    """

    name: str
    title: str
    folder: str
    landmarks: tuple[str, ...]
    splits: Mapping[str, int | None]
    train: str
    test: str
    classes: int
    layout: tuple[str, ...]
    origin: str
    read: Callable[[Path, str], Listing]
    archives: Mapping[str, tuple[Archive, ...]] = field(default_factory=dict)

    def listing(self, name: SetName, key: str, default: str | None = None) -> Listing:
        """The images of the split that a name asks for, checked against the official numbers; downloaded if it says so.

        key: the yaml key that errors name; default: the split where none is asked for.
        Raises FileNotFoundError or ValueError.
        """
        split, partial = self.split_of(name, key, default), name.flag("partial", key)
        root = Path(name.name)
        if name.flag("download", key):
            self.fetch(root, split, key)
        where = f"{key}: {name.text}"
        try:
            listing = self.read(self.official_folder(root, where), split)
        except FileNotFoundError as error:
            if str(error).startswith(where):
                raise
            raise FileNotFoundError(f"{where}: {error}. {self.expected()}") from None
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        return self._checked(listing, split, partial, where)

    def split_of(self, name: SetName, key: str, default: str | None = None) -> str:
        """The split that a name asks for. Raises ValueError for one that there is not."""
        split = name.options.get("split", default)
        if split is None or split not in self.splits:
            said = f"has no split {split}" if split else "needs a split"
            raise ValueError(
                f"{key}: {name.text}: {self.title} {said}; write split={self.train} or split={self.test}"
                f" (it has {', '.join(self.splits)})"
            )
        return split

    def official_folder(self, root: Path, where: str) -> Path:
        """The root itself, or its official folder. Raises FileNotFoundError that begins with `where`."""
        for folder in (root, root / self.folder):
            if any((folder / landmark).exists() for landmark in self.landmarks):
                return folder
        state = "holds no" if root.exists() else "does not exist; it is to be the folder of"
        raise FileNotFoundError(f"{where}: {root} {state} {self.title}. {self.expected()}")

    def expected(self) -> str:
        """The expected layout and where the files are to be had, for an error."""
        lines = "".join(f"\n- {line}" for line in self.layout)
        return f"Expected there, or in a folder {self.folder} there:{lines}\n{self.origin}"

    def fetch(self, root: Path, split: str, key: str) -> None:
        """Downloads what is missing of a split. Raises ValueError where the source allows none, or OSError."""
        if not self.archives:
            try:
                self.official_folder(root, key)
            except FileNotFoundError:
                raise ValueError(f"{key}: {self.title} cannot be downloaded automatically. {self.expected()}") from None
            return
        for archive in self.archives[split]:
            makes = archive.makes.removeprefix(f"{self.folder}/")
            if not any((folder / makes).exists() for folder in (root, root / self.folder)):
                download(archive, root, key)

    def _checked(self, listing: Listing, split: str, partial: bool, where: str) -> Listing:
        """The listing; raises for files listed twice or missing, wrong labels and numbers other than the official."""
        official = self.splits[split]
        remedy = "unpack it again, or write partial=true to take what is there"
        twice = [file for file, count in Counter(listing.files).items() if count > 1]
        if twice:
            raise ValueError(f"{where}: the {split} split lists {len(twice)} images twice, such as {_some(twice)}")
        labels = listing.labels
        wrong = [] if labels is None else np.flatnonzero((labels < 0) | (labels >= len(listing.classes))).tolist()
        if wrong and labels is not None:
            raise ValueError(
                f"{where}: the label {labels[wrong[0]]} of {listing.files[wrong[0]]} is none of its "
                f"{len(listing.classes)} classes (counted from 0); {len(wrong)} labels are wrong"
            )
        kept = present(listing.folder, listing.files)
        if len(kept) < len(listing) and not partial:
            here = set(kept)
            gone = [file for row, file in enumerate(listing.files) if row not in here]
            raise FileNotFoundError(
                f"{where}: {len(gone):,} of the {len(listing):,} images of the {split} split are not in "
                f"{listing.folder}, such as {_some(gone)}; {remedy}"
            )
        if official is not None and len(listing) != official and not partial:
            raise ValueError(
                f"{where}: {self.title} has {official:,} images in its {split} split, found {len(listing):,}; {remedy}"
            )
        if len(listing.classes) != self.classes and not partial:
            raise ValueError(
                f"{where}: {self.title} has {self.classes:,} classes, found {len(listing.classes):,}; {remedy}"
            )
        if not kept:
            raise ValueError(f"{where}: none of the images of the {split} split is in {listing.folder}")
        return listing if len(kept) == len(listing) else listing.take(kept)


def present(folder: Path, files: list[str]) -> list[int]:
    """The rows whose files are there: each folder is listed once, as asking for every file takes far longer."""
    seen: dict[str, set[str]] = {}
    rows = []
    for row, file in enumerate(files):
        parent, _, name = file.rpartition("/")
        if parent not in seen:
            try:
                seen[parent] = set(os.listdir(folder / parent))
            except OSError:
                seen[parent] = set()
        if name in seen[parent]:
            rows.append(row)
    return rows


def _some(files: list[str]) -> str:
    return ", ".join(files[:SHOWN])


def read_lines(path: Path) -> list[str]:
    """The lines of an official text file that are not empty. Raises FileNotFoundError or ValueError naming it."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error})") from None
    return [line for line in text.splitlines() if line.strip()]


def read_pairs(path: Path) -> dict[str, str]:
    """Lines of a key and a rest, parted by a space or tab. Raises ValueError for a line without, or a key twice."""
    pairs: dict[str, str] = {}
    for line in read_lines(path):
        parts = line.split(maxsplit=1)
        if len(parts) < 2:
            raise ValueError(f"{path} has the line {line!r}; expected KEY VALUE")
        if parts[0] in pairs:
            raise ValueError(f"{path} lists {parts[0]} twice")
        pairs[parts[0]] = parts[1].strip()
    return pairs


def whole_number(text: str, path: Path) -> int:
    """A number of an official file. Raises ValueError naming it."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{path}: {text!r} is no whole number") from None


def first_of(folder: Path, names: tuple[str, ...]) -> Path:
    """The first of some files or folders that is there. Raises FileNotFoundError naming all of them."""
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"{folder} has none of {', '.join(names)}")


def images_below(folder: Path, name: str) -> list[str]:
    """The image files of one folder, `name/FILE`, sorted."""
    from datamodules.indexing import IMAGE_ENDINGS, ending

    try:
        files = sorted(os.listdir(folder / name))
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder / name} is missing") from None
    return [
        f"{name}/{file}" for file in files if ending(file) in IMAGE_ENDINGS and not PurePosixPath(file).name[0] == "."
    ]


def folders_in(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted. Raises FileNotFoundError."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} is missing") from None


def unique_names(names: list[str], ids: list[str]) -> list[str]:
    """Names as text; those that several classes share are told apart by their ids."""
    count = Counter(names)
    return [name if count[name] == 1 else f"{name} ({own})" for name, own in zip(names, ids, strict=True)]
