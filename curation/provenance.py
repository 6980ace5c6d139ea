"""What a data set was made from: the records of its stages, and the models in them. Imports no torch."""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from curation.known_weights import known
from curation.ledger import STAGES
from curation.workspace import Workspace
from datamodules.files import read_json

# What runs before there are images to look at.
COLLECTING = ("concepts", "coverage", "captions", "synthesis", "search", "fetch", "scenes", "index")
# The stages in which models are at work, and what they do there.
MODEL_STAGES = ("concepts", "captions", "synthesis", "search", "embed", "text", "ood")
ROLES = {
    "image_text": "image-text encoder", "copy": "copy descriptor", "clipn": "out-of-domain encoder",
    "detector": "text detector", "no_branch": "“no” text tower",
}  # fmt: skip
STAGE_ROLES = {
    ("concepts", "generate"): "writer of concepts", ("concepts", "expand"): "expander of concepts",
    ("concepts", "check"): "judge of concepts", ("captions", "model"): "writer of captions",
    ("synthesis", "model"): "image generator", ("search", "encoder"): "encoder of the search",
}  # fmt: skip

# Models that come with a library: beginning of the name -> licence, source.
BUNDLED = {"rapidocr ": ("Apache 2.0", "https://github.com/RapidAI/RapidOCR")}


def stage_records(space: Workspace) -> dict[str, dict[str, Any]]:
    """stage.json of every finished stage whose result still stands, in the order in which they run."""
    records = {}
    for stage in dict.fromkeys((*COLLECTING, "ingest", "identical", "embed", *STAGES[1:])):
        record = space.current_record(stage)
        if record is not None:
            records[stage] = record
    return records


def selected_from(space: Workspace) -> tuple[dict[str, Any], set[str] | None]:
    """(settings of the selection, names of the stages that it reads), while it runs as well as after.

    ({}, None) where no selection was begun.
    """
    record = space.current_record("select")
    made = record["print"] if record else read_json(space.stage_folder("select") / "begun.json")
    if made is None:
        return {}, None
    return made.get("settings") or {}, set(made["reads"])


@dataclass(frozen=True)
class Model:
    """A model that the data set was made with.

    licence and source are those of published weights that the tool knows, else empty.
    """

    role: str
    name: str
    checksum: str
    stand_in: bool
    licence: str = ""
    source: str = ""


def models(records: dict[str, dict[str, Any]], used: set[str] | None = None) -> list[Model]:
    """The models of the stages, in their order.

    used: names of the scoring stages that count; None counts all. A model that has several parts is named once each.
    """
    found = []
    for stage in MODEL_STAGES:
        if stage not in records or (used is not None and stage in STAGES and stage not in used):
            continue
        for role, value in (records[stage].get("models") or {}).items():
            if isinstance(value, dict) and value and ("name" in value or role == "no_branch"):
                name = STAGE_ROLES.get((stage, role)) or ROLES.get(role, role.replace("_", " "))
                found.append(_model(name, value, role == "no_branch" and _beside_a_stand_in(records)))
    return list(dict.fromkeys(found))


def _beside_a_stand_in(records: dict[str, dict[str, Any]]) -> bool:
    """Whether the `no` tower is the one that lies beside an encoder which is a stand-in."""
    encoders = records.get("embed", {}).get("models") or {}
    encoder = encoders.get("clipn") or encoders.get("image_text") or {}
    own = (records.get("ood", {}).get("settings") or {}).get("no_branch")
    return own is None and bool(encoder.get("stand_in"))


def _model(role: str, value: dict[str, Any], stand_in: bool) -> Model:
    files = (value.get("files") if "name" in value else value) or {}
    checksums = [value["sha256"]] if value.get("sha256") else list(files.values())
    name, pretrained = value.get("name"), value.get("pretrained")
    parts = [_short(part) for part in (name, pretrained, value.get("version")) if part] or list(files)
    stand_in = stand_in or bool(value.get("stand_in")) or "miniature" in " ".join(parts).lower()
    entry = None
    if not stand_in:
        entry = known(f"{name}/{pretrained}" if pretrained else str(name)) if name else None
    text = ", ".join(str(item)[:12] for item in checksums[:3]) or str(value.get("revision") or "")[:12]
    bundled = next((facts for start, facts in BUNDLED.items() if str(name).startswith(start)), ("", ""))
    known_licence = (entry.licence, entry.source) if entry else bundled
    return Model(role, " · ".join(parts), text, stand_in, *known_licence)


def _short(part: Any) -> str:
    """A name without the folders of the machine that it was on."""
    text = str(part)
    return PurePath(text).name if PurePath(text).is_absolute() else text
