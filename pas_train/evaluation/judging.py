"""Judges backbones on data sets, one after another; what is judged is kept, so that a kill loses little."""

import io
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from datamodules.annotated import Annotated, Kind, kind_of
from datamodules.files import fingerprint, read_json, write_json
from datamodules.labelled import LabelledImages
from datamodules.ordered_batches import spare_cores
from pas_train.evaluation import feature_cache
from pas_train.evaluation.candidates import Candidate, identity
from pas_train.evaluation.evaluation import Evaluation
from pas_train.evaluation.evaluation_set import HAVE, JUDGED_BY, REMEDIES
from pas_train.evaluation.feature_cache import StoredFeatures, extract, slug, stored
from pas_train.evaluation.features import Transform
from pas_train.evaluation.portable import portable_identity
from pas_train.evaluation.protocol import Features, Figures, Protocol, Subject
from pas_train.ranks import Meeting

REVISION = 1  # of how figures are made; another number judges anew what was judged before
FEW = 2048  # images that are decoded before a loader process has begun
FEW_WHOLE = 128  # likewise of images with masks or boxes, which are larger and come again in each epoch
FIGURES = "figures.json"


@dataclass
class Judged:
    """What judging found, in the shape of results.json: its `backbones`, `protocols` and `evaluation`."""

    backbones: dict[str, dict[str, Any]] = field(default_factory=dict)
    protocols: dict[str, dict[str, Any]] = field(default_factory=dict)
    evaluation: dict[str, dict[str, dict[str, Figures]]] = field(default_factory=dict)


@dataclass
class Judging:
    """How backbones are judged. Every rank runs it: all extract features, and rank 0 judges them.

    image_size: of the model, where the evaluation names none. trainer: the yaml's section, for protocols that train.
    """

    evaluation: Evaluation
    workspace: Path
    device: torch.device
    image_size: int
    trainer: Mapping[str, Any] = field(default_factory=dict)
    meeting: Meeting = field(default_factory=Meeting)

    def run(self, candidates: Iterable[Candidate]) -> Judged:
        """All candidates on all data sets by all protocols. Complete on rank 0 alone."""
        judged, protocols = Judged(), self.evaluation.protocols()
        with redirect_stdout(io.StringIO()) if self.meeting.rank else nullcontext():  # what is told is told once
            sets = self.meeting.together(
                lambda: {item.name: item.read(self.workspace) for item in self.evaluation.datasets}
            )
        self._say_unused(protocols, {name: kind_of(train) for name, (train, _) in sets.items()})
        for name, (train, test) in sets.items():
            judged.evaluation[name] = {}
            judged.protocols[name] = self._described(train, test, protocols)
        for candidate in self._each(candidates) if sets else ():
            of = identity(candidate.backbone)
            judged.backbones[candidate.name] = {
                "title": candidate.title, "kind": candidate.kind, "architecture": candidate.architecture,
                "identity": of,
            }  # fmt: skip
            for name, (train, test) in sets.items():
                piece = _Piece(self, candidate, of, name, train, test)
                own = [protocol for protocol in protocols if protocol.of == kind_of(train)]
                judged.evaluation[name][candidate.name] = piece.judge(own)
        return judged

    def _described(self, train: Annotated, test: Annotated, protocols: list[Protocol]) -> dict[str, Any]:
        """A data set's entry of `protocols`. What segmentation and detection depend on is in their settings alone."""
        kind = kind_of(train)
        own = [protocol for protocol in protocols if protocol.of == kind]
        return {
            "train": portable_identity(train), "test": portable_identity(test),
            "train_images": len(train), "test_images": len(test),
            "classes": len(train.classes), "image_size": self.side if kind == "labels" else None,
            "precision": self.evaluation.precision if kind == "labels" else None,
            "figures": {name: settings for one in own for name, settings in one.described().items()},
        }  # fmt: skip

    def _say_unused(self, protocols: list[Protocol], kinds: dict[str, Kind]) -> None:
        """Tells of protocols of masks and boxes that no data set is for, and of sets that no protocol judges.

        kinds: of the sets by name.
        """
        for protocol in protocols if kinds else ():
            if protocol.of != "labels" and protocol.of not in kinds.values():
                self.say(
                    f"{'evaluation':<12}evaluation.{protocol.names()[0]} judges nothing: none of evaluation.datasets "
                    f"has {protocol.of}; {REMEDIES[protocol.of]}, or set it to null"
                )
        for name, kind in kinds.items():  # those that were still to be made when the settings were checked
            if all(protocol.of != kind for protocol in protocols):
                self.say(
                    f"{'evaluation':<12}'{name}' is not judged: it has {HAVE[kind]}; set evaluation.{JUDGED_BY[kind]}: "
                    "{}"
                )

    def _each(self, candidates: Iterable[Candidate]) -> Iterator[Candidate]:
        """The candidates; one that cannot be loaded on one rank is an error on all."""
        left = iter(candidates)
        while (candidate := self.meeting.together(lambda: next(left, None))) is not None:
            yield candidate

    @property
    def side(self) -> int:
        """Of the test images in pixels."""
        return self.evaluation.image_size or self.image_size

    @property
    def root(self) -> Path:
        """The folder of features and of what was judged before."""
        given = self.evaluation.features_folder
        return self.workspace / "features" if given is None else Path(given)

    def workers(self, images: int, kind: Kind = "labels") -> int:
        """Loader processes for so many images."""
        given = self.evaluation.num_workers
        if given is not None:
            return given
        return (
            0
            if images < (FEW if kind == "labels" else FEW_WHOLE)
            else spare_cores(int(os.environ.get("LOCAL_WORLD_SIZE", self.meeting.world_size)))
        )

    def say(self, line: str) -> None:
        """Tells the person, once."""
        if self.meeting.rank == 0:
            print(line, flush=True)


@dataclass
class _Piece:
    """One candidate on one data set."""

    judging: Judging
    candidate: Candidate
    identity: str
    name: str
    train: Annotated
    test: Annotated

    def judge(self, protocols: list[Protocol]) -> dict[str, Figures]:
        """The figures of all protocols; those that were judged before are read."""
        meeting, figures = self.judging.meeting, dict[str, Figures]()
        places = [self._place(protocol) for protocol in protocols]
        kept = meeting.told([_known(place) for place in places])
        todo = [protocol for protocol, known in zip(protocols, kept, strict=True) if not known]
        if any(not protocol.on_images for protocol in todo):
            self._extract()
        for protocol, place, known in zip(protocols, places, kept, strict=True):
            if known:
                figures |= known["figures"]
            elif protocol.on_images:
                figures |= self._keep(protocol, place, protocol.judge(self._subject(place)))
            else:
                figures |= meeting.together(partial(self._judge_features, protocol, place))
        before = [name for known in kept if known for name in known["figures"]]
        if before:
            where = self.judging.root / "judged"
            self.judging.say(f"{'judged':<12}{self._title}: {', '.join(before)} as before, kept in {where}")
        return figures

    def _judge_features(self, protocol: Protocol, place: Path) -> dict[str, Figures]:
        if self.judging.meeting.rank:
            return {}
        return self._keep(protocol, place, protocol.judge(self._subject(place)))

    def _keep(self, protocol: Protocol, place: Path, figures: dict[str, Figures]) -> dict[str, Figures]:
        if self.judging.meeting.rank == 0:
            write_json(place / FIGURES, {"of": self._of(protocol), "figures": figures})
        return figures

    @property
    def _title(self) -> str:
        return f"{self.name} {self.candidate.title}"

    @cached_property
    def _transform(self) -> Transform:
        mean, std = (tuple(round(one, 6) for one in values) for values in (self.candidate.mean, self.candidate.std))
        return Transform(self.judging.side, mean, std, self.judging.evaluation.precision)

    @property
    def _labelled(self) -> tuple[LabelledImages, LabelledImages]:
        assert isinstance(self.train, LabelledImages) and isinstance(
            self.test, LabelledImages
        )  # by the protocol's `of`
        return self.train, self.test

    @cached_property
    def _stores(self) -> list[tuple[StoredFeatures, LabelledImages]]:
        train, test = self._labelled
        return [
            (
                stored(self.judging.root, self.candidate.title, self.identity, f"{self.name}-{split}", images,
                       self._transform),
                images,
            )
            for split, images in (("train", train), ("test", test))
        ]  # fmt: skip

    def _extract(self) -> None:
        judging, count, begin = self.judging, len(self.train) + len(self.test), time.perf_counter()
        missing = judging.meeting.told(not all(store.whole for store, _ in self._stores))
        if not missing:
            judging.say(f"{'features':<12}{self._title}: read from {judging.root}")
            return
        extract(
            self._stores, self.candidate.backbone, self._transform, judging.device, judging.evaluation.batch_size,
            judging.workers(count), judging.meeting, f"features    {self._title}",
        )  # fmt: skip
        seconds = time.perf_counter() - begin
        judging.say(
            f"{'features':<12}{self._title}: {count:,} images in {seconds:.1f} s, {count / seconds:,.0f} a second"
        )

    def _features(self) -> tuple[Features, Features]:
        (train, known), (test, asked) = self._stores
        return Features(train.open(), known.labels), Features(test.open(), asked.labels)

    def _subject(self, folder: Path) -> Subject:
        judging, candidate = self.judging, self.candidate
        return Subject(
            self.name, candidate.backbone, self.train, self.test, self._features, judging.side, candidate.mean,
            candidate.std, judging.device, folder, judging.trainer, judging.evaluation.batch_size,
            judging.workers(len(self.train), kind_of(self.train)), candidate.title,
        )  # fmt: skip

    def _of(self, protocol: Protocol) -> dict[str, Any]:
        """All that the figures of a protocol depend on."""
        precision = self.judging.trainer.get("precision") if protocol.on_images else self._transform.precision
        return {
            "revision": [REVISION, feature_cache.REVISION], "precision": str(precision),
            "protocol": type(protocol).__name__, "settings": protocol.described(),
            "backbone": self.identity, "mean": self._transform.mean,
            "std": self._transform.std, "train": self.train.fingerprint(), "test": self.test.fingerprint(),
            "image_size": self._transform.image_size if protocol.of == "labels" else None,
        }  # fmt: skip

    def _place(self, protocol: Protocol) -> Path:
        """The protocol's own folder, of everything that its figures depend on."""
        root, of = self.judging.root / "judged", fingerprint(self._of(protocol))
        same = sorted(root.glob(f"*-{of}"))  # of another name for the same backbone or images
        name = slug(f"{self.candidate.title}-{self.name}-{protocol.names()[0]}")
        return same[0] if same else root / f"{name}-{of}"


def _known(place: Path) -> Any:
    """What was judged before; a file that is damaged counts as none."""
    try:
        return read_json(place / FIGURES)
    except ValueError:
        return None
