"""The command line: a thin table from command to function, so that --help and a typing mistake answer at once."""

import difflib
import importlib
import sys
from collections.abc import Sequence

# command -> (module, function, help); a module is imported only when its command runs.
COMMANDS = {
    "fit": ("pas_train.cli", "lightning_command", "build the data set if it is not there yet, pretrain, evaluate"),
    "curate": ("pas_train.commands", "curate", "build the data set only"),
    "evaluate": ("pas_train.cli", "evaluate", "what the yaml's evaluation says of a checkpoint: k-NN, linear, ..."),
    "select": ("pas_train.commands", "select", "another size of a finished data set, in seconds"),
    "report": ("pas_train.commands", "report", "the funnel report of a workspace"),
    "trace": ("pas_train.commands", "trace", "everything known about one image"),
    "plan": ("pas_train.commands", "plan", "images, model calls, hours and disk of a config, before anything runs"),
    "doctor": ("pas_train.commands", "doctor", "what this machine lacks for a config: weights, disk, keys, endpoints"),
    "sweep": ("pas_train.sweeping.command", "sweep", "a W&B sweep file run here, without a server, resumable"),
    "validate": ("pas_train.cli", "lightning_command", "the online k-NN protocol on a checkpoint"),
    "test": ("pas_train.cli", "evaluate", "the same as evaluate"),
    "compare": ("pas_train.comparison.command", "compare", "tables, charts and a page of pretraining sets' results"),
    "analyse": ("pas_train.analysis.command", "analyse", "what data sets hold, side by side: balance, maps, coverage"),
    "export": ("pas_train.exporting.command", "export", "the backbone for timm, transformers, mmseg, ..., verified"),
    "predict": ("pas_train.cli", "lightning_command", "embeddings of an image source, as Parquet"),
}


def usage() -> str:
    """The text of --help."""
    lines = [
        "usage: python -m pas_train COMMAND --config FILE [--KEY VALUE ...]",
        "       python -m pas_train sweep FILE, compare RUN ..., analyse NAME=SOURCE ...",
        "       python -m pas_train export --ckpt_path CKPT --to TARGET",
        "",
        "Precision at Scale: a curated image data set from a pool of images, and a backbone pretrained on it.",
        "",
        "commands:",
        *(f"  {name:<10} {text}" for name, (_, _, text) in COMMANDS.items()),
        "",
        "FILE is a yaml in the current directory, or the name of a packaged one (quickstart.yaml, pool.yaml, ...).",
        "Every key of it can be given on the command line: --model.init_args.temperature 0.1",
        "--seed N of `fit` stands for the seeds of model and data.",
        "python -m pas_train COMMAND --help lists the keys of a command.",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if args else 2
    if args[0] in ("--version", "version"):
        from importlib.metadata import version

        print(f"pas-train {version('pas-train')}")
        return 0
    command, rest = args[0], args[1:]
    if command not in COMMANDS:
        close = difflib.get_close_matches(command, COMMANDS, n=2)
        hint = f"; did you mean {' or '.join(close)}?" if close else f"; commands are {', '.join(COMMANDS)}"
        print(f"pas_train: error: unknown command '{command}'{hint}", file=sys.stderr)
        return 2
    from pas_train.configs import ConfigError, resolve_configs, share_seed

    module, function, _ = COMMANDS[command]
    try:
        rest = resolve_configs(share_seed(rest) if module == "pas_train.cli" else rest)
    except ConfigError as error:
        print(f"pas_train: error: {error}", file=sys.stderr)
        return 2
    # Lightning's launcher starts the other ranks by running this program's command line again.
    sys.argv = [sys.argv[0] if argv is None else "pas_train", command, *rest]
    from pas_train.errors import reported

    if command in ("fit", "curate"):
        from pas_train.slurm import requeue_on_signal

        requeue_on_signal()
    with reported():
        getattr(importlib.import_module(module), function)(command, rest)
    return 0


if __name__ == "__main__":
    sys.exit(main())
