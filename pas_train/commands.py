"""The commands around a data set: what they take, and what a person is shown."""

import argparse
import dataclasses
import json
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from pas_train import curated
from pas_train.parsing import Parser, accept_sections, section_parser

OTHERS = ("model", "data", "evaluation", "tracking", "checkpoint", "watch", "throughput", "ckpt_path", "weights_only")


def _parse_curation(args: Sequence[str], description: str, *extra: tuple[str, dict[str, Any]]) -> tuple[Any, Any, Any]:
    """The command line, the pipeline that it describes, and all of it as objects."""
    parser = section_parser(description)
    parser.add_argument("--curation", type=curated.curation_class(), help="the pipeline")
    parser.add_argument("--trainer", type=dict, default={}, help="accelerator, devices, num_nodes, strategy")
    # Not as Any: a key of the command line would then take the place of the yaml's whole section.
    parser.add_argument("--model", type=dict | None, default=None, help=argparse.SUPPRESS)
    accept_sections(parser, *(name for name in OTHERS if name != "model"), "seed_everything")
    for name, options in extra:
        parser.add_argument(name, **options)
    config = parser.parse_args(list(args))
    made = parser.instantiate(config)
    return config, made.curation, made


def doctor(command: str, args: Sequence[str]) -> None:
    """The command `doctor`: what this machine lacks for a config; ends with status 1 if anything does."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before the hub's library is imported: nothing is downloaded
    config, curation, _ = _parse_curation(args, "Says what this machine lacks for a config; downloads nothing.")
    context = curated.context_of(curation, config.workspace, config.pool, config.trainer)
    told = ((finding.level, finding.subject, finding.text) for finding in curated.findings(curation, context))
    levels = []
    for level, subject, text in chain(told, _start(config.model), [("ok", "tracking", _tracking(config.tracking))]):
        levels.append(level)
        head = f"{level:<5} {subject:<11} "
        wrapped = textwrap.fill(text, 118, initial_indent=head, subsequent_indent=" " * len(head),
                                break_long_words=False, break_on_hyphens=False)  # fmt: skip
        print(wrapped, flush=True)
    failed = levels.count("fail")
    print(f"\n{failed} of {len(levels)} findings to mend" if failed else "\nnothing to mend")
    if failed:
        sys.exit(1)


def plan(command: str, args: Sequence[str]) -> None:
    """The command `plan`: images, model calls, hours and disk of every step, before anything runs."""
    from pas_train.planning import images_seen, print_plan

    rates_class = curated.rates_class()
    config, curation, extra = _parse_curation(
        args,
        "Says what a config will take: images, model calls, hours and disk; runs nothing.",
        (
            "--rates",
            {"type": rates_class, "default": rates_class(), "help": "what is assumed where nothing is measured"},
        ),
        ("--measure", {"type": bool, "default": False, "help": "try each model that is here for some seconds first"}),
    )
    context = curated.context_of(curation, config.workspace, config.pool, config.trainer, alone=config.measure)
    rates = extra.rates
    measured: dict[str, float] = {}
    if config.measure:
        measured, missing = curated.measure(curation, context)
        print("\n".join(missing))
        rates = dataclasses.replace(rates, **measured)
    lines = curated.plan_lines(curation, context, rates)
    seen, backbone = images_seen(config.model, config.data, config.trainer, lines[-1].count)
    if seen:
        lines.append(curated.training_line(seen, backbone, rates))
    print_plan(lines, curated.total(lines), dataclasses.asdict(rates), set(measured))
    try:
        if curation.search is not None:
            curation.search.check_source()
    except ValueError as error:
        print("\n" + textwrap.fill(f"missing: {error}", 118, break_long_words=False, break_on_hyphens=False))


def _start(model: Any) -> Iterator[tuple[str, str, str]]:
    """Whether the weights are here that a training starts from, if it does not start from random ones."""
    settings = {**((model or {}).get("init_args") or {}), **(model or {})}  # keys of the command line lie beside
    if settings.get("weights") is None:
        return
    from pas_train.weight_files import look_for

    try:
        here, where = look_for(str(settings["weights"]), str(settings.get("backbone", "")))
    except (ValueError, OSError) as error:
        yield "fail", "start", str(error)
    else:
        yield "ok" if here else "note", "start", where


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
    workspace = curated.workspace_path(config.workspace, curation.domain, curation.variant)
    made = curated.run_curation(curation, workspace, config.pool, config.trainer, config.stop_after)
    if int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))):
        return  # rank 0 speaks for all
    if config.stop_after is not None:
        print(f"stopped     after {config.stop_after}: {made}; without --stop_after the same command goes on")
    else:
        print(f"data set    {made}\nreport      {curated.write_report(workspace)}")


def _read(args: Sequence[str], description: str, *extra: tuple[str, dict[str, Any]]) -> tuple[Any, Path]:
    """Parsed arguments and the workspace, for commands that only read."""
    parser = section_parser(description)
    # Not as Any: a key of the command line would then take the place of the yaml's whole section.
    parser.add_argument("--curation", type=dict | None, default=None, help="the pipeline; only its domain is read")
    accept_sections(parser, *OTHERS, "trainer", "seed_everything")
    for name, options in extra:
        parser.add_argument(name, **options)
    config = parser.parse_args(list(args))
    curation = config.curation or {}
    return config, curated.workspace_path(config.workspace, curation.get("domain"), curation.get("variant"))


def select(command: str, args: Sequence[str]) -> None:
    """The command `select`: another data set of a finished one; its sizes are nested, because the order is total."""
    selector, names = curated.methods()
    for before, argument in zip(["", *args], args, strict=False):
        name = argument.removeprefix("--method=") if before != "--method" else argument
        if (before == "--method" or name != argument) and "." not in name and name not in names:
            raise ValueError(f"--method {name} is not known; the methods are {', '.join(names)}")
    config, workspace = _read(
        args,
        "Writes another data set of a finished one: another size (a smaller one is a subset of a larger one), or the "
        "images that another method takes, to compare with. The quotas of the config that made it hold.",
        ("--size", {"type": int | None, "default": None, "help": "images to keep"}),
        ("--like", {"type": str | None, "default": None,
                    "help": "as many as in this data set: a manifest.parquet, a folder of images, or shards"}),
        ("--method", {"type": selector | None, "default": None,
                      "help": "orders the images anew; its settings as --method.seed 1"}),
        ("--name", {"type": str | None, "default": None, "help": "name of the new data set; default size-<N>"}),
    )  # fmt: skip
    if config.size is not None and config.like is not None:
        raise ValueError(f"--size {config.size} and --like {config.like} both say how many images to keep; give one")
    if config.size is None and config.like is None and config.method is None:
        raise ValueError("--size must be given, or --like DATASET: as many images as that data set has")
    space = curated.finished(workspace)
    _refuse_other_quotas(space, config.curation)
    option, size = (
        ("--like", curated.images_of(Path(config.like))) if config.like is not None else ("--size", config.size)
    )
    method, name = None, f"size-{size}"
    if config.method is not None:
        parser = Parser()
        parser.add_argument("--method", type=selector)
        method = parser.instantiate(parser.parse_object({"method": config.method})).method
        name = "-".join([method.kind.replace("_", "-"), *([] if size is None else [str(size)])])
    manifest = curated.write_size(space, size, config.name or name, method, option)
    print(f"data set    {manifest}: {curated.images_of(manifest)} images")


def _refuse_other_quotas(space: Any, curation: dict[str, Any] | None) -> None:
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
    for card in curated.write_cards(workspace, config.curation):
        print(f"card        {card}")
    print(f"report      {curated.write_report(workspace)}")


def trace(command: str, args: Sequence[str]) -> None:
    """The command `trace`: the story of one image, and all that is known about it."""
    config, workspace = _read(
        args, "Prints everything known about one image.", ("key", {"type": str, "help": "the image's key"})
    )
    story, facts = curated.story_of(workspace, config.key)
    for step, text in story:
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
