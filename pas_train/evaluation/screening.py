"""Whether the test images of an evaluation were kept out of the images that a backbone was trained on."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.datasets.names import is_named, parse_name, placed, same_images
from datamodules.decoding import RefusedImage
from datamodules.files import read_json, sha256_file
from datamodules.image_source import ImageSource, encoded_image
from datamodules.sources import Sources, names_of
from pas_train import curated
from pas_train.checkpoints import read_checkpoint
from pas_train.evaluation.evaluation import Evaluation, EvaluationSet
from pas_train.runs import identity_of

KEY = "data_set"  # in a checkpoint
OUTSIDE = "the backbone was not trained on a data set that was curated here"
HASHING = 8  # files at a time

# Name of a data set -> screened (bool), images, unscreened (numbers; null where not counted), why (null where screened)
Screening = dict[str, dict[str, Any]]


def origin_of_source(source: Sources | Path | None, identity: str) -> dict[str, Any]:
    """What a training remembers of its images: source, identity, and of those curated here workspace and checksum.

    The checksum is that of the images alone: a manifest that was made anew may hold other scores of the same images.
    Of several data sets `parts` has this of each, with its own identity.
    """
    names = [] if source is None or isinstance(source, Path) else names_of(source)
    if len(names) > 1:
        parts = [origin_of_source(name, identity_of(name)) for name in names]
        return {"source": names, "identity": identity, "workspace": None, "images": None, "parts": parts}
    if names and is_named(names[0]):
        return {"source": names[0], "identity": identity, "workspace": None, "images": None}
    source = Path(names[0]) if names else source
    assert source is None or isinstance(source, Path)
    source = None if source is None else source.resolve()
    workspace = curated.workspace_of(source)
    inside = source is not None and workspace is not None and source.is_file()
    return {
        "source": None if source is None else str(source),
        "identity": identity,
        "workspace": None if workspace is None else str(workspace),
        "images": curated.checksum_of_images(source) if source is not None and inside else None,
    }


def origin_of_training(source: Sources | Path | None, identity: str, start: Path | None) -> dict[str, Any]:
    """What a training remembers of its images; as not screened where it begins with a backbone that has seen others.

    start: the checkpoint that it goes on from, such as its own last one, if there is one.
    """
    origin = origin_of_source(source, identity)
    if start is None:
        return origin
    before = origin_of_checkpoint(read_checkpoint(str(start), "to go on from"), start)
    same = before is not None and (
        before["identity"] == identity or (origin["images"] is not None and before["images"] == origin["images"])
    )
    if before is None or not same:
        return {**_unscreenable(origin), "why": f"it went on from {start.name}, which had seen other images"}
    return {**_unscreenable(origin), "why": before["why"]} if "why" in before else origin


def _unscreenable(origin: dict[str, Any]) -> dict[str, Any]:
    return {**{key: value for key, value in origin.items() if key != "parts"}, "workspace": None}


class RememberDataSet(Callback):
    """Writes what the backbone is trained on into every checkpoint."""

    def __init__(self, origin: dict[str, Any]) -> None:
        self.origin = origin

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the entry."""
        checkpoint[KEY] = self.origin


def origin_of_checkpoint(checkpoint: dict[str, Any], path: Path) -> dict[str, Any] | None:
    """What a checkpoint was trained on, by itself or by the folder of its run; None for one from outside.

    A workspace that was moved is found again above the checkpoint.
    """
    home = _workspace_above(path)
    origin: dict[str, Any] | None = checkpoint.get(KEY)
    if origin is None and home is not None:  # of a run before checkpoints remembered it
        data = (read_json(path.resolve().parents[1] / "results.json") or {}).get("data")
        data = data if data and isinstance(data["source"], str) else None
        source = data and _manifest(Path(data["source"]), data["identity"], home)
        return data and {**origin_of_source(source, data["identity"]), "images": None}
    if origin is not None and home is not None and "parts" in origin:
        return {**origin, "parts": [origin_of_checkpoint({KEY: part}, path) for part in origin["parts"]]}
    if origin is None or origin["workspace"] is None or home is None:
        return origin
    source = _manifest(Path(origin["source"]), origin["identity"], home)
    return {**origin, "source": str(source), "workspace": str(source.parents[2])}


def _manifest(source: Path, identity: str, home: Path) -> Path:
    """A run's manifest: that of its name in the workspace that the run lies in, where it is the same or alone there.

    The data set of another workspace may have the same name.
    """
    own = home / "dataset" / source.parent.name / source.name
    if source.parent.parent.name != "dataset" or not own.is_file():
        return source
    return own if not source.is_file() or sha256_file(own) == identity else source


def _workspace_above(path: Path) -> Path | None:
    """WORKSPACE of WORKSPACE/training/RUN/checkpoints/FILE."""
    above = path.resolve().parents
    inside = len(above) > 3 and above[0].name == "checkpoints" and above[2].name == "training"
    return above[3] if inside else None


def screen(evaluation: Evaluation, workspace: Path, origin: dict[str, Any] | None) -> Screening:
    """For each data set whether all of its test images were screened against what the backbone was trained on.

    Images are compared by their bytes. origin: of the training. A backbone from outside is told as not screened.
    Raises ValueError where a data set was curated here, but not screened, unless the evaluation allows it.
    """
    if origin is not None and "parts" in origin:
        return _joined([screen(evaluation, workspace, part) for part in origin["parts"]], names_of(origin["source"]))
    if origin is None or origin["workspace"] is None:
        why = (origin or {}).get("why", OUTSIDE)
        nothing = {"screened": False, "images": None, "unscreened": None, "why": why}
        return {item.name: dict(nothing) for item in evaluation.datasets}
    if not evaluation.datasets:
        return {}
    root = Path(origin["workspace"])
    known, reason = curated.screened_checksums(root, origin)
    told = {}
    for item in evaluation.datasets:
        checksums = _checksums(item, workspace)
        count = len(checksums) if known is None else sum(one not in known for one in checksums)
        why = (reason or f"not among the tests of the leakage gate of {root}") if count else None
        told[item.name] = {"screened": not count, "images": len(checksums), "unscreened": count, "why": why}
    if not evaluation.allow_unscreened:
        _refuse({name: entry for name, entry in told.items() if not entry["screened"]})
    return told


def _joined(parts: list[Screening], names: list[str]) -> Screening:
    """What several data sets of one training say together: screened where all of them are."""
    told = {}
    for name in parts[0] if parts else []:
        entries = [part[name] for part in parts]
        whys = [f"{source}: {entry['why']}" for source, entry in zip(names, entries, strict=True) if entry["why"]]
        screened = all(entry["screened"] for entry in entries)
        counts = {key: [entry[key] for entry in entries] for key in ("images", "unscreened")}
        known = {key: None if None in values else max(values) for key, values in counts.items()}
        told[name] = {"screened": screened, **known, "why": "; ".join(whys) or None}
    return told


def screen_before(evaluation: Evaluation, workspace: Path, gate: Any) -> None:
    """Raises ValueError, before anything is curated, where the leakage gate to come leaves a test image out.

    gate: the yaml's `curation.leakage`, or None. Images that are still to be made are looked at after that.
    """
    if evaluation.allow_unscreened or not evaluation.datasets:
        return
    folders: dict[str, str] = {} if gate is None else gate.folders(workspace)
    names = [parse_name(folder, "curation.leakage.tests") for folder in folders.values()]
    below = [Path(name.name).resolve() for name in names if not name.kind]
    refused, known = {}, None
    for item in evaluation.datasets:
        if _is_among(placed(item.test, workspace), list(folders.values()), below):
            continue
        if not all(folder.exists() for folder in below):
            continue
        known = curated.checksums_of_sets(folders) if known is None else known
        checksums = _checksums(item, workspace)
        count = sum(one not in known for one in checksums)
        why = "curation.leakage is null" if gate is None else "not among curation.leakage.tests"
        if count:
            refused[item.name] = {"images": len(checksums), "unscreened": count, "why": why}
    _refuse(refused)


def _is_among(test: str, gate: list[str], below: list[Path]) -> bool:
    """Whether test images are those of the gate by their name or path, or are still to be made.

    below: the gate's paths.
    """
    name = parse_name(test, "evaluation.datasets")
    if is_named(test) or (name.coco and Path(name.name).exists()):  # a COCO file's images may lie anywhere
        return any(same_images(test, one) for one in gate)
    path = Path(name.name).resolve()
    return any(folder in (path, *path.parents) for folder in below) or not path.exists()


def _checksums(item: EvaluationSet, workspace: Path) -> list[str]:
    """SHA-256 of every test image."""
    images = item.read_test(workspace)
    paths = images.paths
    if not paths:
        return [_checksum(images.source, row) for row in range(len(images))]
    gone = [path for path in paths if not path.is_file()]
    if gone:
        raise FileNotFoundError(f"evaluation.datasets: the image {gone[0]} of '{item.name}' does not exist")
    with ThreadPoolExecutor(HASHING) as pool:
        return list(pool.map(sha256_file, paths))


def _checksum(source: ImageSource, row: int) -> str:
    try:
        return hashlib.sha256(encoded_image(source, row)).hexdigest()
    except (RefusedImage, OSError) as error:
        raise ValueError(
            f"evaluation image {source.describe(row)} cannot be used ({error}); repair or remove it"
        ) from None


def _refuse(sets: Screening) -> None:
    if not sets:
        return
    parts = [f"{e['unscreened']} of the {e['images']} test images of '{name}' ({e['why']})" for name, e in sets.items()]
    raise ValueError(
        f"evaluation.datasets: not screened against the data set: {'; '.join(parts)}. The data set may hold copies of "
        "them. Add them to curation.leakage.tests and run `curate` again (and train again, if that changes the data "
        "set), or take such figures with --evaluation.allow_unscreened true"
    )
