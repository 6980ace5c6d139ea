"""A workspace that begins from another one: finished stages that would come out equal are taken, not run again.

The base is only read. What a stage writes once and never changes in place is linked (two names of the same bytes), all
else is copied, so that neither workspace can change the other. Imports no torch.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from curation.locking import read_only
from curation.progress import Progress
from curation.stage import Context, Stage, differences, stage_fingerprint
from curation.workspace import Workspace, result_print
from datamodules.files import read_json, write_json
from datamodules.indexing import IMAGE_ENDINGS

KEY = "curation.base"
TAKEN = "base.json"  # in the workspace: the base's path, and the results that were taken
LINKED = {".npy", ".parquet", ".tar", *(f".{ending}" for ending in IMAGE_ENDINGS)}
EVERYTHING = ("*",)
UNFINISHED = "it has not finished there"
OWN = "it is made in each workspace"


def begin_from_base(context: Context, upto: list[str], begin_writing: Callable[[], None]) -> None:
    """Takes every stage of `upto` that the base has finished under the settings of this run; tells what and why not.

    A stage appears whole or not at all, so that a run that was killed goes on. What was taken before is taken anew
    where the base has another result since, unless a person edited it here. For rank 0, which holds the workspace and
    says by `begin_writing` that it is changed.

    Raises ValueError or FileNotFoundError for a base that cannot be one, RuntimeError while a run writes to it.
    """
    space, root = context.workspace, checked_base(context)
    before = remembered(context)
    if not root.exists() and before:
        context.say(f"base       {root} is gone; what was taken from it stays")
        return
    with read_only(root):
        base = as_base(context)
        why = reasons(context, base, before)
        context.why_here.update(why)
        shutil.rmtree(space.root / ".taking", ignore_errors=True)
        equal = [name for name in upto if not why[name]]
        todo = [name for name in equal if not _is_here(context, base, name)]
        _tell(context, root, before, why, equal, todo)
        lent = [name for name in upto if why[name] and context.stages[name].shared and _lends(context, base, name)]
        if not todo and not lent:
            return
        begin_writing()
        wanted = {name: EVERYTHING for name in todo} | {name: _lent(context.stages[name]) for name in lent}
        bar = Progress("base", _make_room(context, base, wanted), 0, "file")
        for name in todo:
            _take(context, base, name, wanted[name], bar)
            before[name] = _record_print(base, name)
            write_json(space.root / TAKEN, {"base": str(root.resolve()), "stages": before})
        for name in lent:
            _take(context, base, name, wanted[name], bar)
        bar.close()
        shutil.rmtree(space.root / ".taking", ignore_errors=True)


def remembered(context: Context) -> dict[str, str]:
    """Stage -> print of the results that were taken from this run's base."""
    record = read_json(context.workspace.root / TAKEN) or {}
    assert context.base is not None
    return dict(record["stages"]) if record.get("base") == str(context.base.resolve()) else {}


def as_base(context: Context) -> Context:
    """The same run as it would be in the base workspace, to be looked at and never run."""
    assert context.base is not None
    space = Workspace(context.base)
    pool = context.pool
    if "scenes" in context.stages:
        pool = space.root / "scenes" / "pool"
    return dataclasses.replace(context, workspace=space, pool=pool, base=None)


def from_base(context: Context) -> list[str]:
    """Names of the stages that would be taken from the base workspace; none without one. Changes nothing."""
    if context.base is None or not context.base.exists():
        return []
    return [name for name, why in reasons(context, as_base(context), remembered(context)).items() if not why]


def reasons(context: Context, base: Context, taken: Mapping[str, str]) -> dict[str, str]:
    """Stage -> why it is not taken from the base, in the order of the stages; empty where it is.

    A stage is taken where the base has finished it under these settings, and all that it read is taken. taken: the
    results (stage -> print) that were taken before.
    """
    why: dict[str, str] = {}
    for name, stage in context.stages.items():
        why[name] = _why_not(stage, context, base, why, taken.get(name))
    return why


def _why_not(stage: Stage, context: Context, base: Context, why: Mapping[str, str], taken: str | None) -> str:
    record = base.workspace.stage_record(stage.name)
    if record is None:
        return UNFINISHED
    others = [name for name in stage.reads if why.get(name)]
    now = stage_fingerprint(stage, base)
    if record["fingerprint"] != now["fingerprint"]:
        same = {**now, "reads": {**now["reads"], **{name: record["print"]["reads"].get(name) for name in others}}}
        changed = differences(record, same) or ([] if others else ["settings changed"])
        return "; ".join([*changed, *_follows(others)])
    if others:
        return "; ".join(_follows(others))
    if not stage.shared:
        return OWN
    if not stage.intact(base):
        return "what it wrote there is gone"
    if stage.edited(context) and not _as_taken(stage, context, taken):
        return "edited here by hand"
    return ""


def _follows(others: list[str]) -> list[str]:
    return [f"follows {', '.join(others)}"] if others else []


def _as_taken(stage: Stage, context: Context, taken: str | None) -> bool:
    """Whether nothing was changed here since the stage was taken."""
    record = context.workspace.stage_record(stage.name)
    current = stage_fingerprint(stage, context)["fingerprint"]
    return record is not None and result_print(record) == taken and record["fingerprint"] == current


def _is_here(context: Context, base: Context, name: str) -> bool:
    """Whether the workspace has the base's result already, taken or made itself."""
    record = context.workspace.stage_record(name)
    return record is not None and result_print(record) == _record_print(base, name) and context.stages[name].intact(
        context)  # fmt: skip


def _record_print(base: Context, name: str) -> str:
    record = base.workspace.stage_record(name)
    return result_print(record) if record else ""


def checked_base(context: Context) -> Path:
    """The base's folder. Raises ValueError or FileNotFoundError where it cannot be a base of this workspace."""
    root, own = context.base, context.workspace.root
    assert root is not None
    if root.resolve() == own.resolve():
        raise ValueError(f"{KEY} is the workspace itself, {own}; choose another folder with --workspace")
    owner = read_json(root / "workspace.json")
    if owner is not None and owner["domain"] != context.domain:
        raise ValueError(
            f"{KEY}: {root} holds the data set of another domain, {owner['domain']!r}, not {context.domain!r}; give "
            "the workspace of this config without the change, or null"
        )
    records = (root / context.workspace.stage_folder(name).relative_to(own) / "stage.json" for name in context.stages)
    gone = not root.exists() and (own / TAKEN).exists()
    if not gone and not any(path.exists() for path in records):
        raise FileNotFoundError(
            f"{KEY}: {root} {'has no finished stage' if root.exists() else 'does not exist'}; make it first, by "
            f"`curate --workspace {root}` with the config that this one varies, or set {KEY} to null to begin from "
            "nothing"
        )
    return root


def _tell(
    context: Context, root: Path, before: Mapping[str, str], why: Mapping[str, str], equal: list[str], todo: list[str]
) -> None:
    """Which stages are taken, which are made here, and what the base no longer has as it was taken."""
    again = [name for name in todo if name in before]
    if again:
        context.say(f"base       {root} has other results since: {', '.join(again)} are taken anew")
    lost = []
    for name, reason in why.items():
        record = context.workspace.stage_record(name)
        if reason and name in before and record is not None and result_print(record) == before[name]:
            lost.append(f"{name} ({reason})")
    if lost:
        context.say(f"base       {root} is no longer as it was taken from: {', '.join(lost)}")
    own = ", ".join(name for name, reason in why.items() if reason)
    context.say(f"base       {root} gives {', '.join(equal) or 'nothing'}; made here: {own or 'nothing'}")


def _lent(stage: Stage) -> tuple[str, ...]:
    return stage.keeps if stage.lends is None else stage.lends


def _lends(context: Context, base: Context, name: str) -> bool:
    """Whether the base's folder of a stage that runs here holds what is named by its content and may be used again."""
    own, theirs = (one.workspace.stage_folder(name) for one in (context, base))
    if base.workspace.stage_record(name) is None or (own.exists() and any(own.iterdir())):
        return False
    return any(True for _ in _files(theirs, _lent(context.stages[name])))


def _make_room(context: Context, base: Context, wanted: Mapping[str, Sequence[str]]) -> int:
    """Number of files to take. Raises OSError where they must be copied and there is no room for them.

    wanted: stage -> patterns of the parts of its folder.
    """
    files = [path for name, parts in wanted.items() for path in _files(base.workspace.stage_folder(name), parts)]
    probe = context.workspace.root / ".taking" / "probe"
    if not files:
        return 0
    probe.parent.mkdir(parents=True)
    if _link(max(files, key=lambda path: path.suffix in LINKED), probe):
        probe.unlink()
        return len(files)
    needed, free = sum(path.stat().st_size for path in files), shutil.disk_usage(probe.parent).free
    if needed > free:
        raise OSError(
            f"{KEY}: {context.workspace.root} is on another disk than {context.base}, so that {needed / 1e9:.1f} GB "
            f"must be copied, but {free / 1e9:.1f} GB are free; choose a --workspace on the base's disk, or make room"
        )
    context.say(f"base       on another disk: {needed / 1e9:.2f} GB are copied")
    return len(files)


def _files(folder: Path, patterns: Sequence[str]) -> Iterator[Path]:
    """The files below what matches in a folder, in order, without hidden ones and those of a run in progress."""
    for directory, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(directory, name)
            top = folder / path.relative_to(folder).parts[0]
            if name.startswith(".") or name == "begun.json":
                continue
            if any(top.match(pattern) for pattern in patterns):
                yield path


def _take(context: Context, base: Context, name: str, patterns: Sequence[str], bar: Progress) -> None:
    """Puts a stage's folder, or the parts of it that match, into the workspace in one step."""
    source, target = (one.workspace.stage_folder(name) for one in (base, context))
    record = base.workspace.stage_record(name)
    temporary = context.workspace.root / ".taking" / name
    copied = False
    for path in _files(source, patterns):
        other = temporary / path.relative_to(source)
        other.parent.mkdir(parents=True, exist_ok=True)
        if path.name == "roots.json":
            write_json(other, _moved(json.loads(path.read_text()), base.workspace.root, context.workspace.root))
        elif path.suffix.lower() not in LINKED or not _link(path, other):
            shutil.copy2(path, other)
            copied = True
        bar.step()
    if base.workspace.stage_record(name) != record:
        raise RuntimeError(f"{KEY}: a run changed {source} while it was taken; wait for its end and run again")
    if copied:
        os.sync()  # the bytes before the name
    (target / "stage.json").unlink(missing_ok=True)  # first: a half-cleared stage is never taken for finished
    if target.exists():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(temporary, target)


def _link(path: Path, other: Path) -> bool:
    """A second name of the same bytes; false where the disk has none, or it is another disk."""
    try:
        os.link(path, other)
    except OSError:
        return False
    return True


def _moved(roots: dict[str, str], base: Path, own: Path) -> dict[str, str]:
    """Folders of images with those inside the base replaced by the workspace's own."""
    old, new = base.resolve(), own.resolve()
    return {
        name: str(new / Path(path).relative_to(old)) if Path(path).is_relative_to(old) else path
        for name, path in roots.items()
    }


def taken_stages(space: Workspace) -> dict[str, Any]:
    """{"base": path, "stages": names}: which stages of the present results were taken; empty where none was."""
    record = read_json(space.root / TAKEN) or {}
    names = [
        name for name, taken in record.get("stages", {}).items()
        if (own := space.stage_record(name)) is not None and result_print(own) == taken
    ]  # fmt: skip
    return {"base": record["base"], "stages": names} if names else {}
