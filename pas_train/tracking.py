"""Weights & Biases, without ever a prompt. Takes plain numbers and arrays: it knows neither curation nor training."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from lightning.pytorch.loggers import WandbLogger

Mode = Literal["online", "offline", "disabled"]
SIDE_PX = 224  # of the sample pictures, longest side
SERVER_WAIT_S = 20.0  # wandb's own limit is 90
NAME_LENGTH = 128  # of an artifact, at most
COLUMNS = ("top1", "top1_low", "top1_high", "top5", "mean_per_class", "score")  # of the table of an evaluation
DENSE = ("miou", "macc", "accuracy", "map", "map50", "map75")  # its columns where masks or boxes are judged
SUMMARY_CHARACTERS = 900_000  # the server takes values of up to a megabyte


def make_wandb_logger(
    project: str, group: str, name: str, folder: Path, config: dict[str, Any], offline: bool | None = None,
    job_type: str = "pretrain", tags: Sequence[str] = (), notes: str | None = None,
) -> "WandbLogger | None":  # fmt: skip
    """The logger of one run, already begun; None, said in a line, where wandb is not installed.

    The run is offline where it is asked for (`offline`, or WANDB_MODE), where there is no key and where the server does
    not answer; the line then tells how to send it later. WANDB_MODE=disabled gives a logger that does nothing.

    Args:
        project: Project of the run.
        group: Domain of the data set.
        name: Name and id: the same run goes on after a restart. A sweep's agent sets its own id.
        folder: The run's folder; wandb/ is made in it.
        config: Settings and the data set's identity.
        offline: True never asks the server; None decides by WANDB_MODE, then by whether there is a key.
        job_type: Kind of the run.
        tags: Words to find it by; without any, those of WANDB_TAGS.
        notes: What it is for; None leaves it to WANDB_NOTES.
    """
    try:
        import wandb
    except ImportError:
        print("tracking    wandb is not installed (`pip install wandb`): metrics.csv and results.json only", flush=True)
        return None
    (folder / "wandb").mkdir(parents=True, exist_ok=True)
    arguments = {
        "project": project, "group": group, "name": name, "dir": str(folder), "config": config, "job_type": job_type,
        "tags": list(tags) or None, "notes": notes,
    }  # fmt: skip
    try:
        mode, reason = decide_mode(offline)
        if mode == "online":
            return _begin(mode, arguments)
    except wandb.errors.Error as error:  # no network, or a key that the server refuses
        wandb.teardown()
        mode, reason = "offline", f"the server did not take the run ({str(error).splitlines()[0]})"
    logger = _begin(mode, arguments)
    if mode == "offline":
        print(f"tracking    W&B is offline: {reason}. `wandb sync {_run_folder(logger)}` sends the run", flush=True)
    return logger


def decide_mode(offline: bool | None = None) -> tuple[Mode, str]:
    """online, offline or disabled, and the reason in words."""
    import wandb

    asked = os.environ.get("WANDB_MODE", "")
    if asked == "":
        os.environ.pop("WANDB_MODE", None)  # wandb refuses an empty one
    if asked == "disabled":
        return "disabled", "WANDB_MODE=disabled"
    if offline:
        return "offline", "tracking.offline is true"
    if asked in ("offline", "dryrun") and offline is None:
        return "offline", f"WANDB_MODE={asked}"
    # Without a key wandb.init would ask for one, and wait for an answer that nobody gives on a cluster.
    if not wandb.login(prompt=False):
        return "offline", "there is no key (`wandb login`)"
    return "online", ""


def _begin(mode: Mode, arguments: dict[str, Any]) -> "WandbLogger":
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    own: dict[str, Any] = {"id": None if "WANDB_RUN_ID" in os.environ else arguments["name"]}
    if "WANDB_SWEEP_ID" in os.environ:  # an agent's: project and entity are the sweep's
        own["project"] = os.environ.get("WANDB_PROJECT")
    # Begun here, not by the logger: its own `offline=True` comes too late once wandb.login has run.
    run = wandb.init(
        **{**arguments, **own}, mode=mode, resume="allow",
        settings=wandb.Settings(init_timeout=SERVER_WAIT_S, silent=mode != "online"),
    )  # fmt: skip
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(experiment=run, name=arguments["name"], project=arguments["project"], save_dir=arguments["dir"])


def _run_folder(logger: "WandbLogger") -> Path:
    return Path(logger.experiment.dir).parent


def log_curation(
    logger: "WandbLogger",
    funnel: Sequence[Mapping[str, Any]],
    samples: Mapping[str, Sequence[np.ndarray]],
    result: Mapping[str, Any],
) -> None:
    """Sends what the curation found.

    Args:
        logger: Of make_wandb_logger.
        funnel: Rows with `stage`, `real`, `synthetic`: a table, and totals in the summary as `curation/<stage>`.
        samples: Fate (kept, or a drop reason) -> images uint8 [H, W, 3], as `samples/<fate>`.
        result: Of the selection: knees, cut, kept, target_size, manifest_sha256; to the summary and the config.
    """
    import wandb

    run = logger.experiment
    rows = [[row["stage"], row["real"], row["synthetic"], row["real"] + row["synthetic"]] for row in funnel]
    pictures = {f"samples/{fate}": _pictures(images) for fate, images in samples.items() if images}
    table = wandb.Table(columns=["stage", "real", "synthetic", "total"], data=rows)
    run.log({"curation/funnel": table, **pictures})
    for stage, _, synthetic, total in rows:
        place = f"curation/{stage.replace(' ', '_')}"
        run.summary.update({place: total, f"{place}_synthetic": synthetic})
    for score, knee in zip(("ood", "ood_general", "text_gap"), result.get("knees", ()), strict=False):
        if knee is not None:
            run.summary[f"curation/knee_{score}"] = knee
    if "cut" in result:
        run.summary["curation/cut"] = result["cut"]
    run.config.update({"curated": dict(result)}, allow_val_change=True)


def _pictures(images: Sequence[np.ndarray]) -> list[Any]:
    """One after another in W&B's panel, so all on squares of one size."""
    import wandb
    from PIL import Image, ImageOps

    side = min(SIDE_PX, max(max(image.shape[:2]) for image in images))
    squares = [ImageOps.pad(Image.fromarray(image), (side, side), color="white") for image in images]
    return [wandb.Image(square, file_type="jpg") for square in squares]


def log_results(logger: "WandbLogger", results: Mapping[str, Any]) -> None:
    """Sends what a results.json holds (pas_train.results).

    Accuracies are `eval/<data set>/<protocol>/top1` in the summary (`.../segmentation/miou`, `.../detection/map`), of
    baselines `eval/<data set>/<backbone>/...`; all together they are a table `evaluation`. The file's text is the
    summary's `results`, so that one question to the server brings it back; data set and training are in the config.
    """
    import wandb

    run = logger.experiment
    titles = {name: one.get("title", name) for name, one in results.get("backbones", {}).items()}
    rows: list[tuple[list[str], dict[str, float]]] = []
    for data_set, backbones in results["evaluation"].items():
        for backbone, protocols in backbones.items():
            place = f"eval/{data_set}" if backbone == "trained" else f"eval/{data_set}/{backbone}"
            for protocol, figures in protocols.items():
                numbers = _numbers(figures)
                run.summary.update({f"{place}/{protocol}/{key}": value for key, value in numbers.items()})
                rows.append(([data_set, titles.get(backbone, backbone), protocol], numbers))
    if rows:
        columns = [*COLUMNS, *(name for name in DENSE if any(name in numbers for _, numbers in rows))]
        table = [[*names, *map(numbers.get, columns)] for names, numbers in rows]
        run.log({"evaluation": wandb.Table(columns=["data set", "backbone", "protocol", *columns], data=table)})
    text = json.dumps(results)
    if len(text) > SUMMARY_CHARACTERS and results.get("training"):
        text = json.dumps({**results, "training": {**results["training"], "curve": []}})
    run.summary["results"] = text
    known = {key: results[key] for key in ("data", "training", "labels") if results.get(key)}
    if "data" in known:
        known["data_set"] = known.pop("data")
    if "training" in known:
        known["training"] = {key: value for key, value in known["training"].items() if key != "curve"}
    run.config.update(known, allow_val_change=True)


def _numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among some figures, with the ends of an interval by name."""
    numbers = {
        key: value for key, value in figures.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
    interval = figures.get("interval")
    if interval is not None:
        numbers |= {"top1_low": interval[0], "top1_high": interval[1]}
    return numbers


def log_artifact(
    logger: "WandbLogger", kind: str, name: str, files: Mapping[str, Path], metadata: Mapping[str, Any],
    aliases: Sequence[str] = (), used: bool = False,
) -> None:  # fmt: skip
    """Sends files as an artifact. Their bytes must stay as they are until the run is sent; they are not copied.

    kind: dataset, model or results. files: name in the artifact -> file. used: the run took it, rather than made it;
    W&B tells the two apart where there is a server.
    """
    import wandb

    artifact = wandb.Artifact(re.sub(r"[^\w.-]+", "-", name)[:NAME_LENGTH], type=kind, metadata=dict(metadata))
    for inside, path in files.items():
        artifact.add_file(str(path), name=inside, policy="immutable", skip_cache=True)
    run = logger.experiment
    aliases = ["latest", *aliases]
    if used and not run.offline:
        run.use_artifact(artifact, aliases=aliases)
    else:
        run.log_artifact(artifact, aliases=aliases)
