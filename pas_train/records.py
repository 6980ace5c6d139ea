"""What is remembered of a training for results.json: its images, its length and its curve."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningDataModule, LightningModule

from datamodules.files import read_json, write_json
from datamodules.sources import Sources, names_of, open_sources
from pas_train import curated
from pas_train.history import read_history
from pas_train.runs import MANIFEST, Run

if TYPE_CHECKING:
    from pas_train.cli import PasCLI

FILE = "record.json"  # in the run's folder
FULL = "full"  # the data set of a workspace that needs no name


def record_of(
    cli: "PasCLI", model: LightningModule, data: LightningDataModule, run: Run | None = None
) -> dict[str, Any]:
    """`data` and `training` of results.json, without what grows with the steps. run: counts its images, too."""
    settings = cli.plain_config()
    seeds = {part: _arguments(settings[part]).get("seed", 0) for part in ("model", "data") if settings.get(part)}
    alike = len(set(seeds.values())) == 1
    training = {
        "method": type(model).__name__,
        "backbone": getattr(model, "backbone_name", None),
        "seed": next(iter(seeds.values())) if alike else ", ".join(f"{part} {seed}" for part, seed in seeds.items()),
        "batch_size": getattr(data, "batch_size", None),
        "image_size": getattr(data, "image_size", None),
        "passes_per_image": getattr(model, "passes_per_image", None),
    }
    return {"data": data_record(run.source, data) if run is not None else {}, "training": training}


def data_record(source: Sources | None, data: Any = None) -> dict[str, Any]:
    """Name and numbers of the images of a training. data: a data module that has opened them, where there is one."""
    names = names_of(source)
    rows = getattr(data, "rows", None)
    if rows is None and names and hasattr(data, "rows"):
        rows = open_sources(source)
    return {
        "name": " + ".join(short_name(name) for name in names) or None,
        "images": None if rows is None else len(rows),
        "synthetic": None if rows is None else int(rows.synthetic().sum()),
        "curated": any(curated.workspace_of(name) is not None for name in names),
    }


def short_name(source: str) -> str:
    """What to call a data set in a table: of one made here its workspace, and its own name unless it is the full one.

    Others are called by their folder or file, or as the collection that they come from calls them.
    """
    kind, colon, rest = source.partition(":")
    if colon and "/" not in kind and len(kind) > 1:
        return (kind if kind not in ("torchvision", "hf") else rest).partition("?")[0]
    path = Path(source).resolve()
    if path.name != MANIFEST:
        return path.stem if path.is_file() else path.name
    folder = path.parent
    if folder.parent.name != "dataset":
        return folder.name
    return folder.parents[1].name + ("" if folder.name == FULL else f" {folder.name}")


def remember(run: Run, record: dict[str, Any]) -> None:
    """Keeps a record in the run's folder, for `evaluate` on one of its checkpoints."""
    write_json(run.folder / FILE, record)


def remembered(folder: Path) -> dict[str, Any] | None:
    """The record of a run, if it has one."""
    record = read_json(folder / FILE)
    return record if isinstance(record, dict) else None


def epochs_after(record: dict[str, Any], steps: int) -> float | None:
    """Epochs of a training after some steps, a whole number where it is one; None where its images are not counted."""
    per_epoch = (record["data"].get("images") or 0) // (record["training"]["batch_size"] or 1)
    epochs = round(steps / per_epoch, 2) if per_epoch else None
    return int(epochs) if epochs is not None and epochs == int(epochs) else epochs


def grown(training: dict[str, Any], folder: Path | None, steps: int, epochs: float | None) -> dict[str, Any]:
    """`training` of results.json after some steps. folder: of the run, for its curve."""
    told = dict(training)
    passes, batch = told.pop("passes_per_image", None), told["batch_size"]
    seen = steps * batch if batch else None
    curve = _curve(folder, steps, batch) if folder is not None and batch else []
    return {
        **told, "epochs": epochs, "steps": steps, "images_seen": seen,
        "forward_passes": seen * passes if seen is not None and passes else None, "curve": curve,
    }  # fmt: skip


def _curve(folder: Path, steps: int, batch: int) -> list[dict[str, Any]]:
    """The online k-NN accuracy over the images seen."""
    rows = read_history(folder / "metrics.csv", steps)
    points = [(int(row["step"]) + 1, float(row["val/knn_top1"])) for row in rows if row.get("val/knn_top1")]
    return [{"images_seen": step * batch, "top1": top1} for step, top1 in points]


def _arguments(section: Any) -> dict[str, Any]:
    return (section.get("init_args") or section) if isinstance(section, dict) else {}
