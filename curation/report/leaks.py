"""The leakage certificate as the report shows it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation.report.view import View
from curation.screening import read_certificate


@dataclass(frozen=True)
class ScreenedSet:
    """A test set of the certificate. sha256: of the sorted checksums of its images; removed: nearest to one of it."""

    name: str
    path: str
    images: int
    unreadable: int
    removed: int
    sha256: str


@dataclass(frozen=True)
class Certificate:
    """What the data set was screened against.

    thresholds: (cosine, images of the pool above it), ascending, the gate's own among them; normalisation: None where
    cosines decide; note: what else a reader must know, empty where there is nothing.
    """

    sets: list[ScreenedSet]
    threshold: float
    thresholds: list[tuple[float, int]]
    images: int
    removed: int
    descriptor: str
    normalisation: str | None
    note: str


def certificate(view: View) -> Certificate | None:
    """The certificate of the present data set, None where the leakage stage has not finished or has no part in it."""
    content = read_certificate(view.space) if view.state("leakage") == "done" else None
    if content is None:
        return None
    return Certificate(
        sets=[ScreenedSet(**entry) for entry in content["tests"]],
        threshold=content["threshold"],
        thresholds=[(mark, count) for mark, count in content["removals"]],
        images=content["images"],
        removed=content["removed"],
        descriptor=_descriptor(content["descriptor"]),
        normalisation=_normalisation(content["score_normalisation"]),
        note=_note(content),
    )


def _descriptor(identity: dict[str, Any]) -> str:
    checksum = next(iter((identity.get("files") or {}).values()), None)
    name = Path(str(identity["name"])).name
    mark = ", a stand-in" if identity.get("stand_in") else ""
    return f"{name}{mark} (SHA-256 {checksum[:12]})" if checksum else f"{name}{mark}"


def _normalisation(settings: dict[str, Any] | None) -> str | None:
    if settings is None:
        return None
    background = settings["background"] or f"up to {settings['sample']:,} images of the pool"
    return (
        f"score above {settings['threshold']:g}: cosine less {settings['beta']:g} times the mean cosine of the test "
        f"image to its {settings['neighbours']} nearest of {background}"
    )


def _note(content: dict[str, Any]) -> str:
    notes = []
    unreadable = sum(entry["unreadable"] for entry in content["tests"])
    if unreadable:
        notes.append(f"{unreadable:,} test images could not be decoded and were not compared.")
    if content["whole_groups"]:
        notes.append("The near-duplicates of a leaking image were dropped with it, beyond the numbers here.")
    if content["score_normalisation"] is not None:
        notes.append("The numbers per threshold are of plain cosines, which did not decide here.")
    return " ".join(notes)
