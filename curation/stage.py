"""What a stage is: settings, what it reads, how it is identified, and whether it is finished."""

import dataclasses
import importlib.metadata
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from curation.repositories import checksums
from curation.workspace import Workspace, result_print
from datamodules.files import fingerprint, read_json, write_json

if TYPE_CHECKING:
    from curation.session import Session


def runtime(default: Any) -> Any:
    """A dataclass field that changes how fast a stage runs, not what it computes: no part of the fingerprint."""
    return field(default=default, metadata={"runtime": True})


@dataclass
class Context:
    """What every stage of one run shares."""

    workspace: Workspace
    session: "Session"
    domain: str
    description: str
    pool: Path | None
    seed: int = 0
    stages: dict[str, "Stage"] = field(default_factory=dict)
    base: Path | None = None  # a workspace whose finished stages are taken
    why_here: dict[str, str] = field(default_factory=dict)  # stage -> why it is not taken from there, empty where it is

    def say(self, line: str) -> None:
        """One line to the person at the console, from rank 0 only."""
        if self.session.is_zero:
            print(line, flush=True)


class Stage(ABC):
    """One step of the curation: a dataclass whose fields are its settings.

    `reads` names the stages whose results it uses; a change in one of them, in the settings or in the models makes
    the stage, and what follows, run again. `run` returns what is worth recording in stage.json.
    """

    name: ClassVar[str]
    reads: ClassVar[tuple[str, ...]] = ()
    # Glob patterns of names in the stage's folder that changed settings leave there: what is named by its content
    # (answers of language models, images already made or fetched) and found again by it.
    keeps: ClassVar[tuple[str, ...]] = ()
    # Those of them that a workspace which begins from another one takes though its settings differ; null: all.
    lends: ClassVar[tuple[str, ...] | None] = None
    # Whether the stage draws from the curation's seed, so that another seed makes it run again.
    draws: ClassVar[bool] = False
    # Whether the result may be taken from another workspace; false for what writes outside the stage's folder.
    shared: ClassVar[bool] = True

    def settings(self) -> dict[str, Any]:
        """The settings that decide the result."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {f.name: getattr(self, f.name) for f in fields if not f.metadata.get("runtime")}

    def identity(self, context: Context) -> dict[str, Any]:
        """What else decides the result: checksums of the models and files that the stage uses."""
        return {}

    def check(self, context: Context) -> None:
        """Raises what is wrong with the settings before any stage starts."""
        return None

    def check_ready(self, context: Context) -> None:
        """Raises what only the finished earlier stages can tell, before a result of an earlier run is cleared."""
        return None

    def intact(self, context: Context) -> bool:
        """Whether what a finished stage wrote outside its folder is still there; if not, it runs again."""
        return True

    def edited(self, context: Context) -> bool:
        """Whether a person changed the result by hand in this workspace, so that no other one may take its place."""
        return False

    @abstractmethod
    def run(self, context: Context) -> dict[str, Any]:
        """Does the work on all ranks.

        Of what it returns, `rows` and `summary` are told, `output` (a fingerprint of the result, where equal settings
        can give another one) makes what reads this stage run again, and the rest is kept as `result`.
        """


def stage_fingerprint(stage: Stage, context: Context) -> dict[str, Any]:
    """The fingerprint of a stage with the parts it was made from."""
    settings = {key: plain(value) for key, value in stage.settings().items()}
    parents = {}
    for name in stage.reads:
        if name in context.stages:
            record = context.workspace.stage_record(name)
            parents[name] = result_print(record) if record else None
    parts = {"settings": settings, "identity": plain(stage.identity(context)), "reads": parents}
    if stage.draws:
        parts["seed"] = context.seed
    return {"fingerprint": fingerprint({"stage": stage.name, **parts}), **parts}


def plain(value: Any) -> Any:
    """Settings as JSON knows them; of a nested dataclass without the fields that only change its speed."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        settings = {f.name: plain(getattr(value, f.name)) for f in fields if not f.metadata.get("runtime")}
        kind = getattr(value, "kind", None)  # which of several classes a yaml key took
        return settings if kind is None else {"kind": kind, **settings}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def run_stage(stage: Stage, context: Context) -> bool:
    """Runs a stage unless it is finished with the same fingerprint. Returns whether anything was done."""
    session, workspace = context.session, context.workspace
    # Rank 0 looks and decides for all: an error of its look ends every rank, and no rank sees another state.
    print_, record = session.on_zero(lambda: (stage_fingerprint(stage, context), workspace.stage_record(stage.name)))
    folder = workspace.stage_folder(stage.name)
    if record and record["fingerprint"] == print_["fingerprint"] and session.on_zero(lambda: stage.intact(context)):
        since = "as in the base" if context.why_here.get(stage.name) == "" else "finished before"
        context.say(f"{stage.name:<10} {since}: {record['summary']}")
        session.barrier()
        return False
    here = f" (not as in the base: {why})" if record is None and (why := context.why_here.get(stage.name)) else ""
    context.say(f"{stage.name:<10} {_why(record, print_, folder)}{here}")
    session.on_zero(lambda: stage.check_ready(context))
    session.on_zero(lambda: _begin(folder, print_, stage.keeps))
    began = time.time()
    result = stage.run(context)
    summary = result.get("summary", "")
    session.on_zero(lambda: _finish(stage, folder, print_, result, time.time() - began))
    context.say(f"{stage.name:<10} done in {time.time() - began:.1f} s: {summary}")
    return True


def _why(record: dict[str, Any] | None, current: dict[str, Any], folder: Path) -> str:
    begun = read_json(folder / "begun.json")
    if begun and begun["fingerprint"] == current["fingerprint"]:
        return "goes on where it was stopped"
    if record is None:
        return "starts"
    if record["fingerprint"] == current["fingerprint"]:
        return "runs again (what it wrote is gone)"
    return f"runs again ({'; '.join(differences(record, current)) or 'settings changed'})"


def differences(record: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """What differs between a finished stage and a present fingerprint, in words."""
    old = record["print"]
    before, now = dict(_leaves(old["settings"])), dict(_leaves(current["settings"]))
    changed = [
        f"{key} {_short(before.get(key))} -> {_short(now.get(key))}"
        for key in dict.fromkeys([*now, *before])
        if before.get(key) != now.get(key)
    ]
    changed += [f"{name} changed" for name, value in current["reads"].items() if old["reads"].get(name) != value]
    changed += [f"without {name}" for name in old["reads"] if name not in current["reads"]]
    if old["identity"] != current["identity"]:
        changed.append("its models or inputs changed")
    if old.get("seed") != current.get("seed"):
        changed.append("seed changed")
    return changed


def _leaves(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings by their keys with dots, as the yaml's keys are told."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _begin(folder: Path, current: dict[str, Any], keeps: tuple[str, ...] = ()) -> None:
    begun = read_json(folder / "begun.json")
    if begun and begun["fingerprint"] == current["fingerprint"]:
        return
    (folder / "stage.json").unlink(missing_ok=True)  # first: a half-cleared stage is never taken for finished
    for path in folder.iterdir() if folder.exists() else ():
        if any(path.match(pattern) for pattern in keeps):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    write_json(folder / "begun.json", current)


def _finish(stage: Stage, folder: Path, current: dict[str, Any], result: dict[str, Any], seconds: float) -> None:
    packages = (
        "pas-train", "torch", "lightning", "transformers", "diffusers", "open-clip-torch", "faiss-gpu", "faiss-cpu",
        "numpy", "pyarrow",
    )  # fmt: skip
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    write_json(
        folder / "stage.json",
        {
            "stage": stage.name,
            "fingerprint": current["fingerprint"],
            "settings": current["settings"],
            "models": current["identity"],
            "rows": result.get("rows"),
            "summary": result.pop("summary", ""),
            "output": result.pop("output", None),
            "result": result,
            "print": {key: value for key, value in current.items() if key != "fingerprint"},
            "seconds": round(seconds, 3),
            "versions": versions,
        },
    )
    (folder / "begun.json").unlink(missing_ok=True)


def identify_files(path: str | Path | None) -> dict[str, str] | None:
    """Checksum of a weight file, or of every file of a model folder; None where the name is no local path."""
    if path is None:
        return None
    local = Path(str(path).removeprefix("local-dir:"))
    if local.is_file():
        return checksums(local.parent, [local])
    if local.is_dir():
        return checksums(local, sorted(file for file in local.iterdir() if file.is_file()))
    return None
