"""A data set that backbones are judged on: images to learn from, and images to judge."""

import difflib
from dataclasses import dataclass
from pathlib import Path

from datamodules.annotated import Annotated, Kind, kind_of, read_annotated, sound
from datamodules.datasets.names import KNOWN, SetName, parse_name, placed, told_as
from datamodules.datasets.registry import official_split
from datamodules.labelled import LabelledImages, shared_images

HAVE = {"labels": "a class for each image", "masks": "masks", "boxes": "boxes"}
JUDGED_BY = {"labels": "knn", "masks": "segmentation", "boxes": "detection"}  # the section to set
REMEDIES = {
    "masks": "give one such as {name: foodseg103, root: DIR}, or CSVs of path,mask",
    "boxes": "give one such as {name: oktoberfest, root: DIR}, or COCO JSON files",
}


@dataclass
class EvaluationSet:
    """A data set whose images have a class each, masks (for segmentation) or boxes (for detection).

    Args:
        name: Its name in results.json.
        train: Folder of class folders, CSV with columns path,label, torchvision:CLASS?..., hf:NAME?split=train, or a
            known data set such as food-101:DIR?split=train; `workspace:` begins a path in the workspace. Of masks a CSV
            with columns path,mask beside a classes.txt, of boxes a COCO JSON file, FILE.json or FILE.json?images=DIR.
        test: The same, for the images that are judged.
        root: In the place of train and test where `name` is that of a known data set: its folder, for its official
            splits.
        label_column: The CSV's column of labels.
    """

    name: str
    train: str = ""
    test: str = ""
    root: str | None = None
    label_column: str = "label"

    def __post_init__(self) -> None:
        if self.root is not None and self.name in KNOWN:  # what else is wrong, `check` says
            self.train = self.train or official_split(self.name, self.root, test=False)
            self.test = self.test or official_split(self.name, self.root, test=True)

    @property
    def key(self) -> str:
        """How errors name it."""
        return f"evaluation.datasets: '{self.name}'"

    def check(self, workspace: Path, made: bool = False) -> Kind | None:
        """What is known of its images; None where that is seen when they are opened, or made.

        Raises for what `read` would refuse, without opening an image; downloads what a known data set asks for.
        made: files in the workspace are still to be made.
        """
        self._check_given()
        if made and any(text.startswith("workspace:") for text in (self.train, self.test)):
            return None
        names = [parse_name(placed(text, workspace), self.key) for text in (self.train, self.test)]
        for name in names:
            if name.kind == "torchvision":
                _check_class(name, self.key)
        if not any(name.kind in ("torchvision", "hf") for name in names):  # those two are opened when they are judged
            return kind_of(self._aligned(workspace)[0])
        return None

    def _check_given(self) -> None:
        """Raises ValueError where it is not said what the images are."""
        if self.root is not None and self.name not in KNOWN and not (self.train and self.test):
            close = difflib.get_close_matches(self.name.lower(), KNOWN, n=1, cutoff=0.5)
            hint = f"; did you mean name: {close[0]}?" if close else ""
            raise ValueError(
                f"{self.key} has a root, which only a known data set may have{hint} There are {', '.join(KNOWN)}; for "
                "any other give train and test"
            )
        if not self.train or not self.test:
            raise ValueError(
                f"{self.key} has no {'train' if not self.train else 'test'}; give train and test: folders of class "
                "folders, CSVs of path,label or data sets by name; or, of a known data set, name and root"
            )

    def read(self, workspace: Path) -> tuple[Annotated, Annotated]:
        """Training and test images of one kind, which count the same classes; masks and boxes are looked at.

        Raises ValueError or FileNotFoundError.
        """
        train, test = (
            sound(images, self.key, lambda line: _tell(f"'{self.name}': {line}")) for images in self._aligned(workspace)
        )
        shared = shared_images(train, test)
        if shared:
            found = ", and find themselves" if isinstance(test, LabelledImages) else ""
            _tell(f"{shared} of {len(test)} test images of '{self.name}' are among its training images{found}")
        return train, test

    def read_test(self, workspace: Path) -> Annotated:
        """The images that are judged, as their files list them."""
        self._check_given()
        return read_annotated(placed(self.test, workspace), self.key, self.label_column)

    def _aligned(self, workspace: Path) -> tuple[Annotated, Annotated]:
        test = self.read_test(workspace)
        train = read_annotated(placed(self.train, workspace), self.key, self.label_column)
        if kind_of(train) != kind_of(test):
            raise ValueError(
                f"{self.key}: the training images have {HAVE[kind_of(train)]}, the test images {HAVE[kind_of(test)]}; "
                "both need the same"
            )
        return train, test.aligned(train.classes, f"evaluation.datasets '{self.name}': test")


def _tell(line: str) -> None:
    print(f"{'evaluation':<12}{line}", flush=True)


def _check_class(name: SetName, key: str) -> None:
    from datamodules.torchvision_source import find_class

    with told_as(key):
        find_class(name.name, name.options, name.text)
