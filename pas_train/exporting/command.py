"""The command `export`."""

import argparse
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pas_train.errors import message_of, paragraph, plainly
from pas_train.exporting.registry import TARGETS
from pas_train.parsing import PlainParser

OUT = "exports"
ARGUMENTS: list[tuple[str, str, dict[str, Any]]] = [
    (
        "--ckpt_path",
        "a .ckpt of a training; or published weights: a file (official MoCo v3, torchvision, timm), a folder that timm "
        "or transformers saved, timm:NAME[.TAG] or hf:NAME",
        {"required": True, "metavar": "CKPT"},
    ),
    (
        "--to",
        f"one or more of {', '.join(TARGETS)}, with commas between",
        {"required": True, "metavar": "TARGET[,...]"},
    ),
    (
        "--output",
        "the folder to write, of several targets the folder above theirs; default: export/TARGET in the training's "
        f"folder, for other weights {OUT}/NAME-TARGET",
        {"metavar": "DIR"},
    ),
    (
        "--image_size",
        "side in pixels of the images that it is to take: a vision transformer's position embedding is interpolated",
        {"type": int, "metavar": "N"},
    ),
    ("--backbone", "timm's name of the architecture, where the file does not tell it", {"metavar": "NAME"}),
    (
        "--python",
        "the Python of another environment that has the library, to verify there: ENV/bin/python",
        {"metavar": "PYTHON"},
    ),
]


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = PlainParser(
        prog="python -m pas_train export",
        allow_abbrev=False,
        description="Writes the backbone of a checkpoint, the query encoder without its heads, in the formats of other "
        "libraries: a folder each, with a model card and the scripts that load and verify it. Each is loaded again and "
        "compared before it is announced; what differs is not left behind.",
    )
    for name, help_text, settings in ARGUMENTS:
        other = ["--out"] if name == "--output" else []  # as other commands call it
        made.add_argument(name, *other, help=help_text, **settings)
    return made


def export(command: str, args: Sequence[str]) -> None:
    """Runs the command. A target that fails does not keep the others from being written; the status is 1 then."""
    options = parser().parse_args(list(args))
    names = list(dict.fromkeys(name.strip() for name in options.to.split(",") if name.strip()))
    if not names:
        raise ValueError(f"--to names no target; targets are {', '.join(TARGETS)}")
    # These import torch.
    from pas_train.exporting.export import check
    from pas_train.exporting.reading import read_source
    from pas_train.exporting.registry import target

    plainly()
    targets = [target(name) for name in names]
    source = read_source(options.ckpt_path, options.backbone, options.image_size)
    print(f"{'backbone':<12}{told(source)}", flush=True)
    failed: list[str] = []
    written = list(zip(targets, places_of(options, source, names), strict=True))
    for made, place in written:  # what cannot be is told before anything is written
        with _failing(made.name, failed):
            check(made, source, place, options.python)
    with _stoppable():
        for made, place in written:
            if made.name not in failed:
                with _failing(made.name, failed):
                    _export(made, source, place, options.python)
    if failed and len(names) > 1:
        print(f"pas_train: {len(failed)} of {len(names)} not exported: {', '.join(failed)}", file=sys.stderr)
    if failed:
        sys.exit(1)


def _export(made: Any, source: Any, place: Path, python: str | None) -> None:
    """One target, told when it is there."""
    from pas_train.exporting.export import export as export_one

    verified = export_one(source, made.name, place, python)
    print(f"{'exported':<12}{place}: {verified}", flush=True)
    if not verified.library:
        print(f"{'':<12}{made.title} is not installed here; where it is: python {place}/verify.py", flush=True)


@contextmanager
def _failing(name: str, failed: list[str]) -> Iterator[None]:
    """Tells an error of the block and notes the target's name, instead of ending the program."""
    try:
        yield
    except BrokenPipeError:
        raise
    except Exception as error:
        message = message_of(error)
        if message is None:
            traceback.print_exc()
            message = f"--to {name} failed ({type(error).__name__})"
        print(paragraph(f"pas_train: error: {message}"), file=sys.stderr, flush=True)
        failed.append(name)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block by an exception, so that what is half written is removed."""
    signals = (signal.SIGINT, signal.SIGTERM)

    def stop(number: int, _: object) -> None:
        for one in signals:
            signal.signal(one, signal.SIG_IGN)  # a second one would leave the rest of the folder
        print("pas_train: stopped; what is not told above was not exported", file=sys.stderr, flush=True)
        sys.exit(128 + number)

    before = [signal.signal(one, stop) for one in signals]
    try:
        yield
    finally:
        for one, handler in zip(signals, before, strict=True):
            signal.signal(one, handler)


def told(source: Any) -> str:
    """The backbone in one line."""
    known = source.metadata
    embedding, weights = known["embedding"], known["source"]["weights"]
    return (
        f"{source.name}: {source.title}, {known['parameters'] / 1e6:,.1f} M parameters, "
        f"{source.image_size} px, embedding of {embedding['dim']} numbers; {weights}"
    )


def places_of(options: argparse.Namespace, source: Any, names: Sequence[str]) -> list[Path]:
    """The folder of each target."""
    from pas_train.exporting.reading import plain_name, run_folder

    if options.output is not None:
        output = Path(options.output).expanduser()
        return [output] if len(names) == 1 else [output / name for name in names]
    size = f"-{options.image_size}" if options.image_size is not None else ""
    run = run_folder(Path(options.ckpt_path))
    if run is not None:
        return [run / "export" / f"{name}{size}" for name in names]
    return [Path(OUT) / f"{plain_name(source.name)}-{name}{size}" for name in names]
