"""The curation as one object: its fields are the stages, in the order in which they run."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curation.locking import WorkspaceLock, held
from curation.manifest import verify_manifest
from curation.session import Session
from curation.sharing import begin_from_base
from curation.stage import Context, Stage, run_stage, stage_fingerprint
from curation.stages.captions import Captions
from curation.stages.concepts import Concepts
from curation.stages.coverage import Coverage
from curation.stages.duplicates import Duplicates
from curation.stages.embed import Embed
from curation.stages.fetch import Fetch
from curation.stages.gaps import Gaps
from curation.stages.identical import Identical
from curation.stages.ingest import Index, Ingest
from curation.stages.leakage import Leakage
from curation.stages.ood import Ood
from curation.stages.retrieve import Retrieve
from curation.stages.scenes import Scenes
from curation.stages.search import Search
from curation.stages.select import Select
from curation.stages.synthesis import Synthesis
from curation.stages.text import Text
from curation.workspace import Workspace
from datamodules.files import read_json, within, write_json

VARIANT_PATIENCE_S = 7 * 86_400.0


@dataclass
class Curation:
    """From two strings to a curated data set.

    Images come from a pool, from a search of published tables, from a generator, or from several of them.

    Args:
        domain: The domain's name, such as "food".
        description: The kind of its concepts, such as "dishes and ingredients".
        concepts: The concept bank.
        coverage: How near the labels of evaluation data sets are to the bank; null does not look.
        captions: Descriptions of scenes that show a concept, for the generator; null leaves synthetic images out.
        synthesis: The generator of images; null leaves synthetic images out.
        search: Addresses of real images in published tables, an index or a service; null searches nothing.
        fetch: Downloads what the search found, or a table of addresses.
        scenes: Makes a pool with a known answer instead of reading one (the quickstart).
        ingest: Decoding and refusal.
        identical: Files with the same bytes; null leaves them in.
        embed: Encoders.
        retrieve: Top k of the pool per concept; null takes the whole pool.
        leakage: Screening against test images; null leaves it out.
        duplicates: Near-duplicates; null leaves copies in.
        text: Written words; null leaves them out.
        ood: Out-of-domain scores.
        select: Pareto fronts, knees, size.
        gaps: A second round for concepts with few images; null has none.
        seed: Seed of the draws.
        precision: Of the encoders: 32-true, bf16-mixed or 16-mixed.
        answer: A truth.parquet (key, kind, group, in_domain) of a pool with a known answer; only to judge the result.
        base: A workspace whose finished stages are taken, not run again, where these settings would give the same.
        variant: Name of a change to compare with: the data set lies in <workspace>-NAME and begins from <workspace>.
    """

    domain: str
    description: str = ""
    concepts: Concepts = field(default_factory=Concepts)
    coverage: Coverage | None = None
    captions: Captions | None = None
    synthesis: Synthesis | None = None
    search: Search | None = None
    fetch: Fetch | None = None
    scenes: Scenes | None = None
    ingest: Ingest = field(default_factory=Ingest)
    identical: Identical | None = field(default_factory=Identical)
    embed: Embed = field(default_factory=Embed)
    retrieve: Retrieve | None = None
    leakage: Leakage | None = None
    duplicates: Duplicates | None = field(default_factory=Duplicates)
    text: Text | None = field(default_factory=Text)
    ood: Ood = field(default_factory=Ood)
    select: Select = field(default_factory=Select)
    gaps: Gaps | None = None
    seed: int = 0
    precision: str = "32-true"
    answer: str | None = None
    base: str | None = None
    variant: str | None = None

    def stages(self) -> list[Stage]:
        """The stages of this configuration in order."""
        fetch, retrieve = self.fetch, self.retrieve
        if self.search is not None:
            fetch = fetch or Fetch()
        if self.search is not None or self.synthesis is not None:
            retrieve = retrieve or Retrieve(k=None)  # fetched and generated images carry their concepts
        chain: list[Stage | None] = [
            self.concepts, self.captions, self.synthesis, self.search, fetch, self.scenes, self.coverage, Index(),
            self.ingest, self.identical, self.embed, retrieve, self.leakage, self.duplicates, self.text, self.ood,
            self.select, self.gaps,
        ]  # fmt: skip
        return [stage for stage in chain if stage is not None]

    def context(self, workspace: Path, pool: Path | None, session: Session) -> Context:
        """What the stages share."""
        space = Workspace(workspace)
        if self.scenes is not None:
            pool = self.scenes.pool(space)
        stages = {stage.name: stage for stage in self.stages()}
        base = self.base_of(Path(workspace))
        return Context(space, session, self.domain, self.description, pool, self.seed, stages, base)

    def base_of(self, workspace: Path) -> Path | None:
        """The workspace that this one begins from, null for none."""
        if self.base is not None or self.variant is None:
            return None if self.base is None else Path(self.base)
        name = workspace.name.removesuffix(f"-{self.variant}")
        if name in ("", workspace.name):
            raise ValueError(
                f"curation.variant is {self.variant!r}, but the workspace is {workspace}: give curation.base, or a "
                f"workspace whose name ends with -{self.variant}"
            )
        return workspace.with_name(name)

    def check(self, context: Context, stop_after: str | None = None) -> bool:
        """Refuses wrong settings, missing files and weights, and a workspace of another data set, before any work.

        Tells all that is wrong at once: who runs unattended wants to mend it in one go. Returns whether there is work.
        """
        _claim(context)
        stale: set[str] = set()
        wrong: list[ValueError | OSError] = []
        for stage in _upto(context, stop_after):
            try:
                if _is_stale(stage, context) or stale & set(stage.reads):  # what reads a stale stage runs again too
                    stale.add(stage.name)
                    stage.check(context)  # loads models: not for a stage that is finished
            except (ValueError, OSError) as error:
                wrong.append(error)
        messages = list(dict.fromkeys(str(error) for error in wrong))
        if len(messages) == 1:
            raise wrong[0]
        if messages:
            listed = "".join(f"\n- {message}" for message in messages)
            raise ValueError(f"{len(messages)} things are missing or wrong:{listed}")
        return bool(stale)

    def run(self, workspace: Path, pool: Path | None, session: Session, stop_after: str | None = None) -> Path:
        """Runs the stages that are missing or stale on all ranks; returns the manifest. Safe to kill and run again.

        stop_after: name of the stage to end with, such as concepts; then returns that stage's folder.
        Raises RuntimeError where another run writes to the workspace.
        """
        if pool is not None and self.scenes is not None:
            raise ValueError(
                f"pool: {pool} is given, but curation.scenes makes a pool of its own; for your images use "
                "pool.yaml, or set curation.scenes, curation.leakage and curation.answer to null"
            )
        session.start()
        context = self.context(workspace, pool, session)
        if stop_after is not None and stop_after not in context.stages:
            raise ValueError(f"--stop_after {stop_after}: the stages of this config are {', '.join(context.stages)}")
        # Runs of a sweep on one variant begin at once; the first makes it for all.
        with held(workspace, session, VARIANT_PATIENCE_S if context.base is not None else 0.0) as lock:
            if context.base is not None:
                names = [stage.name for stage in _upto(context, stop_after)]
                session.on_zero(lambda: self._begin(context, names, lock))
            if session.on_zero(lambda: self.check(context, stop_after)) and session.is_zero:
                lock.begin_writing()
            if stop_after is None:
                return self._run_all(context)
            for stage in _upto(context, stop_after):
                run_stage(stage, context)
            return context.workspace.stage_folder(stop_after)

    def _begin(self, context: Context, names: list[str], lock: WorkspaceLock) -> None:
        _claim(context)
        begin_from_base(context, names, lock.begin_writing)

    def _run_all(self, context: Context) -> Path:
        session = context.session
        done = self._run_stages(context)
        if self.gaps is not None and done[-1] and session.on_zero(lambda: _is_stale(self.concepts, context)):
            context.say("gaps       the curation runs once more, with the concepts that were added")
            done += self._run_stages(context)
        manifest = context.workspace.manifest()
        session.on_zero(lambda: verify_manifest(context.workspace))
        if not any(done):
            context.say(f"the data set is finished: {manifest}")
        if self.answer is not None:
            session.on_zero(lambda: self.judge(context.workspace))
        return manifest

    def _run_stages(self, context: Context) -> list[bool]:
        return [run_stage(stage, context) for stage in context.stages.values()]

    def judge(self, workspace: Workspace) -> dict[str, Any]:
        """Compares the result with the pool's known answer and keeps the figures in columns/answer.json."""
        from curation.answer import judge

        path = within(self.answer or "", workspace.root)
        if not path.exists():
            raise FileNotFoundError(f"curation.answer: {path} does not exist; it is the pool's truth.parquet, or null")
        return judge(workspace, path)


def _upto(context: Context, last: str | None) -> list[Stage]:
    """The stages in order, up to the last one that is to run; all when null."""
    names = list(context.stages)
    return [context.stages[name] for name in names[: names.index(last) + 1 if last else None]]


def _is_stale(stage: Stage, context: Context) -> bool:
    record = context.workspace.stage_record(stage.name)
    if record is None or record["fingerprint"] != stage_fingerprint(stage, context)["fingerprint"]:
        return True
    return not stage.intact(context)


def _claim(context: Context) -> None:
    """A workspace belongs to one domain and one pool; another configuration may not overwrite it."""
    space = context.workspace
    pool = "workspace:scenes/pool" if "scenes" in context.stages else context.pool and str(context.pool.resolve())
    mine = {"domain": context.domain, "pool": pool}
    path = space.root / "workspace.json"
    try:
        space.root.mkdir(parents=True, exist_ok=True)
        owner = read_json(path)
        # What nothing was finished in is nobody's: a mistyped pool or missing weights must not take the folder.
        nothing = not any(path for depth in ("*", "*/*") for path in space.root.glob(f"{depth}/stage.json"))
        # Before anything is indexed, as after `--stop_after concepts`, the same domain may choose its pool.
        free = owner is not None and owner["domain"] == context.domain and not space.index_folder.exists()
        if owner is None or nothing or free:
            write_json(path, mine)
            return
    except OSError as error:
        raise ValueError(
            f"workspace: {space.root} cannot be written ({error.strerror}); choose another folder with --workspace"
        ) from error
    if not _writable(space.root):
        raise ValueError(f"workspace: {space.root} cannot be written; choose another folder with --workspace")
    if owner != mine:
        changed = {key: value for key, value in mine.items() if owner.get(key) != value}
        differ = ", ".join(f"{key} {owner.get(key)!r}, not {value!r}" for key, value in changed.items())
        raise ValueError(
            f"workspace: {space.root} holds the data set of another configuration ({differ}); "
            "choose another folder with --workspace; nothing in it was changed"
        )


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)
