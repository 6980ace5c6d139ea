"""What the rest of pas_train takes of curation, and the one file where the two meet.

The commands `select`, `report` and `trace` read a finished workspace and import no torch; so curation is imported in
functions.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from curation.doctor import Finding
    from curation.encoders import ImageTextEncoder
    from curation.pipeline import Curation
    from curation.planning import Line, Rates
    from curation.selectors import Selector
    from curation.session import Session
    from curation.stage import Context
    from curation.workspace import Workspace


def workspace_path(workspace: str | None, domain: str | None, variant: str | None = None) -> Path:
    """The folder of the data set: the yaml's `workspace`, else runs/<domain>; of a variant of it, the one beside it.

    Raises ValueError for a variant that is no part of a folder's name.
    """
    path = Path(workspace) if workspace is not None else Path("runs") / (domain or "default").replace(" ", "-")
    if variant is None:
        return path
    if not re.fullmatch(r"[A-Za-z0-9._-]+", variant):
        raise ValueError(f"curation.variant {variant!r} is no part of a folder's name; use letters, digits, . _ and -")
    path = path.absolute() if path.name in ("", "..") else path
    return path.with_name(f"{path.name}-{variant}")


def curation_class() -> "type[Curation]":
    """The class behind the yaml's `curation:`."""
    from curation.pipeline import Curation

    return Curation


def launched_devices(devices: Any, num_nodes: int) -> tuple[Any, int]:
    """Devices and nodes that agree with torchrun or SLURM."""
    from curation.session import launched_devices as agree

    return agree(devices, num_nodes)


def start_ranks(trainer: dict[str, Any]) -> None:
    """Starts the other processes of the trainer section, and lets them meet; nothing for one process."""
    _session(trainer).start()


def curation_session(curation: "Curation", trainer: dict[str, Any]) -> "Session":
    """The processes and devices of the trainer section, with the curation's precision."""
    return _session(trainer, precision=curation.precision)


def _session(trainer: dict[str, Any], **options: Any) -> "Session":
    from curation.session import Session

    devices = trainer.get("devices", "auto")
    if isinstance(devices, str) and devices.lstrip("-").isdigit():
        devices = int(devices)
    strategy = trainer.get("strategy", "auto")
    return Session(
        trainer.get("accelerator", "auto"),
        devices,
        int(trainer.get("num_nodes") or 1),
        strategy if isinstance(strategy, str) else "auto",
        **options,
    )


def run_curation(
    curation: "Curation", workspace: Path, pool: str | None, trainer: dict[str, Any], stop_after: str | None = None
) -> Path:
    """Runs the stages that are missing or stale on the devices of the trainer section; returns the manifest."""
    session = curation_session(curation, trainer)
    return curation.run(workspace, Path(pool) if pool else None, session, stop_after)


def context_of(
    curation: "Curation", workspace: str | None, pool: str | None, trainer: dict[str, Any], alone: bool = False
) -> "Context":
    """What the stages share, without starting other processes; alone: models that are tried run in this one."""
    session = curation_session(curation, {**trainer, "devices": 1} if alone else trainer)
    path = workspace_path(workspace, curation.domain, curation.variant)
    return curation.context(path, Path(pool) if pool else None, session)


def findings(curation: "Curation", context: "Context") -> Iterator["Finding"]:
    """What this machine lacks for a curation."""
    from curation.doctor import examine
    from curation.planning import Rates, plan_curation, total

    try:
        needed_gb = total(plan_curation(curation, context, Rates())).disk_gb
    except (ValueError, OSError):  # the findings tell what is wrong
        needed_gb = None
    yield from examine(context, needed_gb)


def rates_class() -> "type[Rates]":
    """The class of what a plan assumes."""
    from curation.planning import Rates

    return Rates


def measure(curation: "Curation", context: "Context") -> tuple[dict[str, float], list[str]]:
    """(rates by name, why others are missing), from trying each model that is here."""
    from curation.measuring import measure as try_models

    return try_models(curation, context)


def plan_lines(curation: "Curation", context: "Context", rates: "Rates") -> list["Line"]:
    """The steps of a plan."""
    from curation.planning import plan_curation

    return plan_curation(curation, context, rates)


def training_line(seen: int, backbone: str, rates: "Rates") -> "Line":
    """The step of a plan that trains."""
    from curation.planning import Line

    hours = seen / rates.trained_per_s / 3600
    return Line("training", seen, f"images seen by {backbone}", 0, hours, used=("trained_per_s",))


def total(lines: list["Line"]) -> "Line":
    """The sum of a plan."""
    from curation.planning import total as add

    return add(lines)


def methods() -> "tuple[type[Selector], list[str]]":
    """(class of the methods of selection, their short names)."""
    from curation.selectors import METHODS, Selector

    return Selector, list(METHODS)


def images_of(source: Path) -> int:
    """Number of images of a manifest, a folder or shards."""
    from curation.sizes import images_of as count

    return count(source)


def write_size(space: "Workspace", size: int | None, name: str, method: "Selector | None", option: str) -> Path:
    """Cuts dataset/<name> from a finished selection; returns its manifest."""
    from curation.sizes import write_size as write

    return write(space, size, name, method, option)


def story_of(workspace: Path, key: str) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """((step, what happened), all columns) of one image."""
    from curation.trace import tell_story, trace_key

    facts = trace_key(workspace, key)
    return list(tell_story(workspace, facts)), facts


def finished(workspace: Path) -> "Workspace":
    """A workspace whose selection is finished and unchanged. Raises FileNotFoundError or ValueError."""
    from curation.manifest import verify_manifest
    from curation.workspace import Workspace

    space = Workspace(workspace)
    verify_manifest(space)
    return space


def write_cards(workspace: Path, curation: dict[str, Any] | None) -> list[Path]:
    """Writes README.md of the data sets of a finished workspace; compares them with a known answer that the yaml names.

    Data sets of an earlier selection keep theirs. None are written where the selection has not finished.
    """
    from curation.answer import judge
    from curation.card import current_data_sets, write_card
    from curation.workspace import Workspace
    from datamodules.files import within

    space = Workspace(workspace)
    names = current_data_sets(space)
    answer = (curation or {}).get("answer")
    truth = within(answer, space.root) if answer else None
    if names and truth is not None and truth.exists():
        judge(space, truth)
    return [write_card(space, name) for name in names]


def write_report(workspace: Path) -> Path:
    """Writes report/index.html; returns its path."""
    from curation.report import write_report as write

    return write(workspace)


def full_manifest(workspace: Path) -> Path:
    """The manifest of the finished data set."""
    from curation.workspace import Workspace

    return Workspace(workspace).manifest()


def workspace_of(source: str | Path | None) -> Path | None:
    """The workspace whose data set a manifest is, None for any other source of images."""
    path = Path(source or "").resolve()  # it may be given from within its folder, or be a link
    inside = path.name == "manifest.parquet" and path.parent.parent.name == "dataset"
    root = path.parent.parent.parent
    return root if inside and (root / "workspace.json").exists() else None


def checksum_of_images(manifest: Path) -> str:
    """Identity of the images of a manifest, whatever their order and scores."""
    from curation.screening import checksum_of_images as checksum

    return checksum(manifest)


def licences_of(manifest: Path) -> list[tuple[str, int]]:
    """(licence, images) of the real images of a manifest, most frequent first."""
    from curation.card import count

    return count(manifest).licences


def is_clipn(names: Iterable[str]) -> bool:
    """Whether the names of some tensors are those of CLIPN's `no` tower."""
    from curation.clipn_checkpoints import is_no

    return any(map(is_no, names))


def screened_checksums(workspace: Path, origin: dict[str, Any]) -> tuple[set[str] | None, str | None]:
    """(SHA-256 of the test images that a data set was screened against, None), or (None, why there are none).

    origin: what a training remembers of its images: `source`, a manifest, its `identity` and the checksum of `images`.
    """
    from curation.screening import screened_checksums as screened
    from curation.screening import unscreened_rows
    from curation.workspace import Workspace
    from datamodules.files import sha256_file

    space, manifest = Workspace(workspace), Path(origin["source"])
    if not manifest.is_file():
        return None, f"{manifest}, which the backbone was trained on, is gone"
    if sha256_file(manifest) != origin["identity"] and checksum_of_images(manifest) != origin.get("images"):
        return None, f"{manifest} holds other images since the backbone was trained on it"
    checksums = screened(space)
    if checksums is None:
        return None, f"no finished leakage gate in {workspace}"
    missed = unscreened_rows(space, manifest)
    if missed:
        return None, f"{missed} images of {manifest} did not pass the present leakage gate"
    return checksums, None


def checksums_of_sets(folders: dict[str, str]) -> set[str]:
    """SHA-256 of all images of some evaluation sets."""
    from curation.evaluation_sets import checksums

    return {one for name, path in folders.items() for one in checksums(name, path)}


def data_set_figures(workspace: Path) -> dict[str, Any]:
    """The funnel, the selection's result, and the figures against a known answer, of a finished workspace."""
    from curation.answer import read_answer
    from curation.ledger import funnel, read_ledger
    from curation.workspace import Workspace

    space = Workspace(workspace)
    record = space.stage_record("select") or {}
    return {
        "funnel": funnel(read_ledger(space)),
        "result": record.get("result", {}),
        "answer": read_answer(space),
    }


def data_set_pictures(workspace: Path, count: int = 16) -> dict[str, Any]:
    """The funnel, the selection's result and decoded sample images by fate (kept, or the drop reason)."""
    import numpy as np
    import pyarrow.compute as pc

    from curation.images import ImageReader
    from curation.ledger import funnel, read_ledger
    from curation.workspace import Workspace
    from datamodules.labelled import LIMITS

    space = Workspace(workspace)
    ledger = read_ledger(space)
    reader = ImageReader(space.index, space.roots, LIMITS)
    fates = pc.fill_null(ledger["drop_reason"], "kept").combine_chunks().dictionary_encode()
    samples = {
        fate: [reader.rgb(int(row)) for row in np.flatnonzero(fates.indices.to_numpy() == code)[:count]]
        for code, fate in enumerate(fates.dictionary.to_pylist())
        if fate != "unreadable"
    }
    record = space.stage_record("select") or {}
    return {"funnel": funnel(ledger), "samples": samples, "result": record.get("result", {})}


# What model cards take.


def plain(value: Any) -> str:
    """A text that Markdown shows as it is, on one line."""
    from curation.markdown import plain as escaped

    return escaped(value)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """A Markdown table whose last columns are numbers."""
    from curation.markdown import markdown_table as table

    return table(header, rows, numbers)


# What `analyse` takes.


def concept_names(workspace: Path) -> list[str]:
    """The bank of a workspace, without the general concepts; none where no concepts stage has finished."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from curation.workspace import Workspace

    path = Workspace(workspace).stage_folder("concepts") / "bank.parquet"
    if not path.is_file():
        return []
    bank = pq.read_table(path, columns=["concept", "general", "valid"])
    return bank.filter(pc.and_(bank["valid"], pc.invert(bank["general"])))["concept"].to_pylist()


def stored_encoder(workspace: Path) -> dict[str, Any] | None:
    """The image-text model whose embeddings a workspace stores: model, pretrained, files; None where it has none."""
    from curation.workspace import Workspace

    record = Workspace(workspace).stage_record("embed")
    if record is None:
        return None
    model = record["models"]["image_text"]
    return {"model": model["name"], "pretrained": model["pretrained"], "files": model["files"]}


def stored_embeddings(workspace: Path, keys: list[str]) -> tuple["np.ndarray", "np.ndarray"]:
    """(places int64 [n] in keys, unit float32 [n, D]) of the images that a workspace has embedded; reads only these."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from curation.workspace import Workspace

    space = Workspace(workspace)
    rows, embeddings = space.embeddings("embed", "image")
    wanted = pc.index_in(pa.array(keys, pa.string()), value_set=space.index["key"].combine_chunks())
    of_row = np.full(space.index.num_rows, -1)
    of_row[rows] = np.arange(len(rows))
    known = np.flatnonzero(wanted.is_valid().to_numpy(zero_copy_only=False))
    stored = of_row[wanted.drop_null().to_numpy().astype(np.int64)]
    return known[stored >= 0], embeddings[stored[stored >= 0]]


def image_text_encoder(model: str, pretrained: str | None, key: str) -> "ImageTextEncoder":
    """An open_clip model by name and weights, or of a folder. Raises ValueError or FileNotFoundError naming the key."""
    from curation.stages.embed import ImageText

    return ImageText(model, pretrained).load(key=key)


def nearest_concepts(labels: "np.ndarray", concepts: "np.ndarray") -> tuple["np.ndarray", "np.ndarray"]:
    """(int64 [L] place of the nearest concept, float32 [L] 1 - cosine, not below 0) of unit [L, D] and [C, D]."""
    import numpy as np

    from curation.ood import best_concept

    places, similarity = best_concept(labels, concepts)
    return places, np.maximum(1 - similarity, 0)


def labels_of(source: str, key: str) -> list[str]:
    """The labels of a data set: class folders, a .csv, a .txt, or a data set by name."""
    from curation.concepts.coverage import read_labels

    return read_labels(source, key)


def label_words(label: str) -> str:
    """A label as words: apple_pie is "apple pie"."""
    from curation.concepts.coverage import label_text

    return label_text(label)
