"""Judging a training's backbone, or the one of a checkpoint, beside its baselines; what results.json says of both."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn

from datamodules.files import read_json, write_json
from pas_train import summary
from pas_train.backbones import backbone_of
from pas_train.checkpoints import load, load_weights
from pas_train.evaluation.baselines import OWN, check_baselines, load_baseline
from pas_train.evaluation.candidates import Candidate
from pas_train.evaluation.judging import Judged, Judging
from pas_train.evaluation.screening import Screening, origin_of_checkpoint, screen
from pas_train.ranks import start_ranks
from pas_train.records import data_record, epochs_after, grown, record_of, remembered
from pas_train.results import joined, results_of
from pas_train.runs import Run
from pas_train.weights import figures_path, started_backbone

if TYPE_CHECKING:
    from pas_train.cli import PasCLI


def judge(
    cli: "PasCLI", model: LightningModule, data: LightningDataModule, run: Run, screening: Screening
) -> dict[str, Any]:
    """Evaluates the trained backbone of a run beside its baselines and writes results.json; empty but on rank 0."""
    judging = _judging(cli, model)
    untrained = copy.deepcopy(backbone_of(model))  # of a training that ended in an earlier run, which left no such file
    last = judging.meeting.told(run.last)
    if last is not None:
        model.load_state_dict(load(last)["state_dict"])
    if judging.evaluation.datasets:
        judging.say("evaluation  starts")
    judged = judging.run(_candidates(judging, model, backbone_of(model), untrained, run.checkpoints, "trained"))
    if judging.meeting.rank:
        return {}
    return write_results(cli, model, data, run, screening, judged)


def write_results(
    cli: "PasCLI", model: LightningModule, data: LightningDataModule, run: Run, screening: Screening, judged: Judged
) -> dict[str, Any]:
    """Writes the results.json of a run."""
    record = remembered(run.folder)
    if record is None or record["data"].get("images") is None:
        record = record_of(cli, model, data, run)
    steps, epochs = run.length
    return run.write_results(
        judged.evaluation, data=record["data"], training=grown(record["training"], run.folder, steps, epochs),
        labels=_labels(cli), screening=screening, backbones=judged.backbones, protocols=judged.protocols,
        settings=cli.plain_config().get("evaluation"),
    )  # fmt: skip


def evaluate_checkpoint(cli: "PasCLI", model: LightningModule, ckpt_path: str | None) -> None:
    """The commands `evaluate` and `test`: figures of a checkpoint, printed and kept beside it."""
    untrained = copy.deepcopy(backbone_of(model))
    checkpoint = load_weights(model, ckpt_path, "to evaluate")
    evaluation = cli.config_init[cli.subcommand]["evaluation"]
    if not evaluation.datasets:
        raise ValueError(
            "evaluation.datasets is empty; name the labelled images to judge the backbone on, such as "
            "--evaluation.datasets '[{name: food, train: DIR, test: DIR}]': folders of class folders, or CSVs of path "
            "and label"
        )
    evaluation.check(cli.workspace)
    check_backbones(cli, model)
    path = Path(str(ckpt_path))
    origin = origin_of_checkpoint(checkpoint, path)
    screening = screen(evaluation, cli.workspace, origin)
    title = "published" if checkpoint["global_step"] is None else "trained"
    judging = _judging(cli, model)
    judged = judging.run(_candidates(judging, model, backbone_of(model), untrained, path.parent, title))
    if judging.meeting.rank == 0:
        told = _told(cli, model, checkpoint, path, origin)
        results = results_of(
            evaluation=judged.evaluation, labels=_labels(cli), screening=screening, backbones=judged.backbones,
            protocols=judged.protocols, settings=cli.plain_config().get("evaluation"), **told,
        )  # fmt: skip
        place = figures_path(str(ckpt_path), cli.workspace)
        told = {"checkpoint": str(ckpt_path), "step": checkpoint["global_step"]}
        write_json(place, {**joined(copy.deepcopy(results), read_json(place)), **told})
        print(summary.accuracies(judged.evaluation, screening, judged.backbones))
        print(f"figures     {place}")


def _told(
    cli: "PasCLI", model: LightningModule, checkpoint: dict[str, Any], path: Path, origin: dict[str, Any] | None
) -> dict[str, Any]:
    """`run`, `data` and `training` of results.json, of a checkpoint: from its run's folder where it lies in one."""
    source = {"source": (origin or {}).get("source"), "identity": (origin or {}).get("identity")}
    step = checkpoint["global_step"]
    if step is None:  # published weights
        name = figures_path(str(path), cli.workspace).name.removesuffix(".evaluation.json")
        return {"run": name, "data": source, "training": None}
    folder = path.resolve().parent.parent if path.resolve().parent.name == "checkpoints" else None
    record = remembered(folder) if folder is not None else None
    if record is None:
        names = source["source"]
        record = {**record_of(cli, model, cli.datamodule), "data": data_record(names) if names else {}}
    data = {**source, **record["data"]}
    epochs = epochs_after({**record, "data": data}, step)
    told = grown(record["training"], folder, step, epochs)
    return {"run": folder.name if folder is not None else path.stem, "data": data, "training": told}


def _candidates(
    judging: Judging, model: Any, backbone: nn.Module, untrained: nn.Module, checkpoints: Path, title: str
) -> Iterator[Candidate]:
    """The backbone that is judged, what it was before, and the other baselines, each loaded when its turn comes.

    untrained: with random weights of the model's seed. checkpoints: the folder that may hold the training's own.
    """
    mean, std = ([float(value) / 255 for value in values.flatten()] for values in (model.mean, model.std))
    name, baselines = str(getattr(model, "backbone_name", type(backbone).__name__)), judging.evaluation.baselines
    yield Candidate("trained", title, "published" if title == "published" else "trained", name, backbone, mean, std)
    start = started_backbone(backbone, checkpoints / "start.pt") if "start" in baselines else None
    if start is not None:
        yield Candidate("start", "start", "start", name, start, mean, std)
    if "untrained" in baselines:
        file = checkpoints / "untrained.pt"
        if file.exists():
            untrained.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        yield Candidate("untrained", "untrained", "untrained", name, untrained, mean, std)
    if "pixels" in baselines:
        yield Candidate("pixels", "raw pixels", "pixels", "pixels", None, mean, std)
    for baseline in dict.fromkeys(baselines):
        if baseline not in OWN:
            yield load_baseline(baseline, judging.side)


def check_backbones(cli: "PasCLI", model: Any) -> None:
    """Raises for a backbone that cannot be judged, the model's or a baseline, before anything long is begun."""
    evaluation, size = cli.config_init[cli.subcommand]["evaluation"], _image_size(cli, model)
    if evaluation.datasets:
        if evaluation.image_size not in (None, size) and hasattr(model, "backbone"):
            _check_size(backbone_of(model), evaluation.image_size, size)
        check_baselines(evaluation.baselines, evaluation.image_size or size)


def _check_size(backbone: nn.Module, size: int, trained: int) -> None:
    """trained: the size that the backbone is made for."""
    try:
        with torch.inference_mode():
            copy.deepcopy(backbone).eval()(torch.zeros(1, 3, size, size))
    except Exception as error:  # what it raises depends on the architecture
        raise ValueError(
            f"evaluation.image_size is {size}, but the model's backbone cannot take such images "
            f"({str(error).splitlines()[0]}); leave it at null, which takes the model's own {trained}"
        ) from error


def _image_size(cli: "PasCLI", model: Any) -> int:
    size: Any = getattr(cli.datamodule, "image_size", None) or getattr(model, "image_size", 224)
    return int(size)


def _judging(cli: "PasCLI", model: Any) -> Judging:
    evaluation, trainer = cli.config_init[cli.subcommand]["evaluation"], cli.plain_config().get("trainer") or {}
    if evaluation.datasets:
        start_ranks(cli.trainer, trainer)
    return Judging(evaluation, cli.workspace, cli.trainer.strategy.root_device, _image_size(cli, model), trainer)


def _labels(cli: "PasCLI") -> dict[str, Any]:
    """Domain, group and tags of a run."""
    curation, tracking = cli.options.get("curation"), cli.config_init[cli.subcommand]["tracking"]
    domain = curation.domain if curation else None
    group = getattr(tracking, "group", None) or domain
    return {"domain": domain, "group": group, "tags": list(getattr(tracking, "tags", None) or [])}
