"""The commands around a data set, and the one file where pas_train meets curation.

`select`, `report` and `trace` read a finished workspace and import no torch; so curation is imported in functions.
"""

import dataclasses
import json
import os
import sys
import textwrap
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pas_train.parsing import Parser, accept_sections, section_parser

if TYPE_CHECKING:
    from curation.pipeline import Curation
    from curation.session import Session
    from curation.stage import Context
    from curation.workspace import Workspace

OTHERS = ("model", "data", "evaluation", "tracking", "checkpoint", "ckpt_path", "weights_only")


def workspace_path(workspace: str | None, domain: str | None) -> Path:
    """The folder of the data set: the yaml's `workspace`, else runs/<domain>."""
    return Path(workspace) if workspace is not None else Path("runs") / (domain or "default").replace(" ", "-")


def curation_class() -> "type[Curation]":
    """The class behind the yaml's `curation:`."""
    from curation.pipeline import Curation

    return Curation


def launched_devices(devices: Any, num_nodes: int) -> tuple[Any, int]:
    """Devices and nodes that agree with torchrun or SLURM."""
    from curation.session import launched_devices as agree

    return agree(devices, num_nodes)


def curation_session(curation: "Curation", trainer: dict[str, Any]) -> "Session":
    """The processes and devices of the trainer section, with the curation's precision."""
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
        curation.precision,
    )


def run_curation(
    curation: "Curation", workspace: Path, pool: str | None, trainer: dict[str, Any], stop_after: str | None = None
) -> Path:
    """Runs the stages that are missing or stale on the devices of the trainer section; returns the manifest."""
    session = curation_session(curation, trainer)
    return curation.run(workspace, Path(pool) if pool else None, session, stop_after)


def _parse_curation(
    args: Sequence[str], description: str, *extra: tuple[str, dict[str, Any]]
) -> tuple[Any, "Curation", Any]:
    """The command line, the pipeline that it describes, and all of it as objects."""
    parser = section_parser(description)
    parser.add_argument("--curation", type=curation_class(), help="the pipeline")
    parser.add_argument("--trainer", type=dict, default={}, help="accelerator, devices, num_nodes, strategy")
    accept_sections(parser, *OTHERS, "seed_everything")
    for name, options in extra:
        parser.add_argument(name, **options)
    config = parser.parse_args(list(args))
    made = parser.instantiate(config)
    return config, made.curation, made


def _context(config: Any, curation: "Curation", alone: bool = False) -> "Context":
    """What the stages share, without starting other processes; alone: models that are tried run in this one."""
    pool = Path(config.pool) if config.pool else None
    session = curation_session(curation, {**config.trainer, "devices": 1} if alone else config.trainer)
    return curation.context(workspace_path(config.workspace, curation.domain), pool, session)


def doctor(command: str, args: Sequence[str]) -> None:
    """The command `doctor`: what this machine lacks for a config; ends with status 1 if anything does."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before the hub's library is imported: nothing is downloaded
    from curation.doctor import Finding, examine
    from curation.planning import Rates, plan_curation, total

    config, curation, _ = _parse_curation(args, "Says what this machine lacks for a config; downloads nothing.")
    context = _context(config, curation)
    try:
        needed_gb = total(plan_curation(curation, context, Rates())).disk_gb
    except (ValueError, OSError):  # the findings tell what is wrong
        needed_gb = None
    findings = []
    for finding in chain(examine(context, needed_gb), [Finding("ok", "tracking", _tracking(config.tracking))]):
        findings.append(finding)
        head = f"{finding.level:<5} {finding.subject:<11} "
        wrapped = textwrap.fill(finding.text, 118, initial_indent=head, subsequent_indent=" " * len(head),
                                break_long_words=False, break_on_hyphens=False)  # fmt: skip
        print(wrapped, flush=True)
    failed = sum(finding.level == "fail" for finding in findings)
    print(f"\n{failed} of {len(findings)} findings to mend" if failed else "\nnothing to mend")
    if failed:
        sys.exit(1)


def plan(command: str, args: Sequence[str]) -> None:
    """The command `plan`: images, model calls, hours and disk of every step, before anything runs."""
    from curation.planning import Line, Rates, plan_curation, total
    from pas_train.planning import images_seen, print_plan

    config, curation, extra = _parse_curation(
        args,
        "Says what a config will take: images, model calls, hours and disk; runs nothing.",
        ("--rates", {"type": Rates, "default": Rates(), "help": "what is assumed where nothing is measured"}),
        ("--measure", {"type": bool, "default": False, "help": "try each model that is here for some seconds first"}),
    )
    context, rates = _context(config, curation, alone=config.measure), extra.rates
    measured: dict[str, float] = {}
    if config.measure:
        from curation.measuring import measure

        measured, missing = measure(curation, context)
        print("\n".join(missing))
        rates = dataclasses.replace(rates, **measured)
    lines = plan_curation(curation, context, rates)
    seen, backbone = images_seen(config.model, config.data, config.trainer, lines[-1].count)
    if seen:
        hours = seen / rates.trained_per_s / 3600
        lines.append(Line("training", seen, f"images seen by {backbone}", 0, hours, used=("trained_per_s",)))
    print_plan(lines, total(lines), dataclasses.asdict(rates), set(measured))
    try:
        if curation.search is not None:
            curation.search.check_source()
    except ValueError as error:
        print("\n" + textwrap.fill(f"missing: {error}", 118, break_long_words=False, break_on_hyphens=False))


def _tracking(settings: Any) -> str:
    """Where the figures of a run will go."""
    import importlib.util

    from pas_train.tracking import decide_mode

    if settings is not None and settings.get("enabled") is False:
        return "off; metrics.csv and results.json only"
    if importlib.util.find_spec("wandb") is None:
        return "wandb is not installed: metrics.csv and results.json only"
    mode, reason = decide_mode(settings.get("offline") if settings is not None else None)
    return f"W&B {mode}" + (f": {reason}" if reason else "")


def curate(command: str, args: Sequence[str]) -> None:
    """The command `curate`."""
    config, curation, _ = _parse_curation(
        args,
        "Builds the data set of a config: what is missing or stale, nothing else.",
        ("--stop_after", {"type": str | None, "default": None, "help": "stage to end with, such as concepts"}),
    )
    workspace = workspace_path(config.workspace, curation.domain)
    made = run_curation(curation, workspace, config.pool, config.trainer, config.stop_after)
    if int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))):
        return  # rank 0 speaks for all
    if config.stop_after is not None:
        print(f"stopped     after {config.stop_after}: {made}; without --stop_after the same command goes on")
    else:
        print(f"data set    {made}\nreport      {write_report(workspace)}")


def finished(workspace: Path) -> "Workspace":
    """A workspace whose selection is finished and unchanged. Raises FileNotFoundError or ValueError."""
    from curation.manifest import verify_manifest
    from curation.workspace import Workspace

    space = Workspace(workspace)
    verify_manifest(space)
    return space


def _read(args: Sequence[str], description: str, *extra: tuple[str, dict[str, Any]]) -> tuple[Any, Path]:
    """Parsed arguments and the workspace, for commands that only read."""
    parser = section_parser(description)
    # Not as Any: a key of the command line would then take the place of the yaml's whole section.
    parser.add_argument("--curation", type=dict | None, default=None, help="the pipeline; only its domain is read")
    accept_sections(parser, *OTHERS, "trainer", "seed_everything")
    for name, options in extra:
        parser.add_argument(name, **options)
    config = parser.parse_args(list(args))
    return config, workspace_path(config.workspace, (config.curation or {}).get("domain"))


def select(command: str, args: Sequence[str]) -> None:
    """The command `select`: another data set of a finished one; its sizes are nested, because the order is total."""
    from curation.selectors import METHODS, Selector
    from curation.sizes import images_of, write_size

    for before, argument in zip(["", *args], args, strict=False):
        name = argument.removeprefix("--method=") if before != "--method" else argument
        if (before == "--method" or name != argument) and "." not in name and name not in METHODS:
            raise ValueError(f"--method {name} is not known; the methods are {', '.join(METHODS)}")
    config, workspace = _read(
        args,
        "Writes another data set of a finished one: another size (a smaller one is a subset of a larger one), or the "
        "images that another method takes, to compare with. The quotas of the config that made it hold.",
        ("--size", {"type": int | None, "default": None, "help": "images to keep"}),
        ("--like", {"type": str | None, "default": None,
                    "help": "as many as in this data set: a manifest.parquet, a folder of images, or shards"}),
        ("--method", {"type": Selector | None, "default": None,
                      "help": "orders the images anew; its settings as --method.seed 1"}),
        ("--name", {"type": str | None, "default": None, "help": "name of the new data set; default size-<N>"}),
    )  # fmt: skip
    if config.size is not None and config.like is not None:
        raise ValueError(f"--size {config.size} and --like {config.like} both say how many images to keep; give one")
    if config.size is None and config.like is None and config.method is None:
        raise ValueError("--size must be given, or --like DATASET: as many images as that data set has")
    space = finished(workspace)
    _refuse_other_quotas(space, config.curation)
    option, size = ("--like", images_of(Path(config.like))) if config.like is not None else ("--size", config.size)
    method, name = None, f"size-{size}"
    if config.method is not None:
        parser = Parser()
        parser.add_argument("--method", type=Selector)
        method = parser.instantiate(parser.parse_object({"method": config.method})).method
        name = "-".join([method.kind.replace("_", "-"), *([] if size is None else [str(size)])])
    manifest = write_size(space, size, config.name or name, method, option)
    print(f"data set    {manifest}: {images_of(manifest)} images")


def _refuse_other_quotas(space: "Workspace", curation: dict[str, Any] | None) -> None:
    """Raises ValueError where the yaml or the command line asks for quotas that the finished selection has not."""
    asked = curation or {}
    used = (space.stage_record("select") or {}).get("settings", {})
    for name in ("per_concept_max", "synthetic_share"):
        given = (asked.get("select") or {}).get(name, asked.get(f"select.{name}"))  # nested only beside a yaml's
        wanted = yaml.safe_load(str(given)) if given is not None else None  # a value of the command line is text
        if wanted is not None and wanted != used.get(name):
            raise ValueError(
                f"curation.select.{name} is {wanted}, but the data set was selected with {used.get(name) or 'none'}: "
                "`curate` with this setting selects it anew; every other size then keeps it"
            )


def report(command: str, args: Sequence[str]) -> None:
    """The command `report`: writes report/index.html and the cards of the data sets."""
    config, workspace = _read(args, "Writes the report of a workspace and the cards of its data sets.")
    for card in write_cards(workspace, config.curation):
        print(f"card        {card}")
    print(f"report      {write_report(workspace)}")


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


def checksums_of_sets(folders: dict[str, Path]) -> set[str]:
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
    import pyarrow.compute as pc

    from curation.images import ImageReader
    from curation.ledger import read_ledger
    from curation.workspace import Workspace
    from datamodules.labelled import LIMITS

    space = Workspace(workspace)
    ledger = read_ledger(space)
    reader = ImageReader(space.index, space.roots, LIMITS)
    fates = pc.fill_null(ledger["drop_reason"], "kept").to_pylist()
    samples: dict[str, list[Any]] = {}
    for row, fate in enumerate(fates):
        if fate != "unreadable" and len(samples.setdefault(fate, [])) < count:
            samples[fate].append(reader.rgb(row))
    figures = data_set_figures(workspace)
    return {"funnel": figures["funnel"], "samples": samples, "result": figures["result"]}


def trace(command: str, args: Sequence[str]) -> None:
    """The command `trace`: the story of one image, and all that is known about it."""
    from curation.trace import tell_story, trace_key

    config, workspace = _read(
        args, "Prints everything known about one image.", ("key", {"type": str, "help": "the image's key"})
    )
    facts = trace_key(workspace, config.key)
    for step, text in tell_story(workspace, facts):
        print(textwrap.fill(text, 118, initial_indent=f"{step:<12}", subsequent_indent=" " * 12,
                            break_long_words=False, break_on_hyphens=False))  # fmt: skip
    print()
    for name, value in facts.items():
        print(f"{name:<20} {_readable(value)}")


def _readable(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list):
        return json.dumps([round(item, 4) if isinstance(item, float) else item for item in value], ensure_ascii=False)
    return str(value)
