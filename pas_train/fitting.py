"""What `fit` does once the data set is there: train or go on, evaluate, track, report."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger
from torch import nn

from pas_train import curated, summary
from pas_train.checkpoint_io import AtomicCheckpointIO, save_whole
from pas_train.checkpointing import Checkpoints
from pas_train.checkpoints import load, load_weights
from pas_train.evaluation.screening import (
    RememberDataSet,
    Screening,
    origin_of_checkpoint,
    screen,
)
from pas_train.history import keep_history
from pas_train.ranks import meeting_place, to_judge
from pas_train.results import VERSION
from pas_train.runs import Run, described
from pas_train.stopping import StopSignals
from pas_train.tracking import log_curation, log_results, make_wandb_logger
from pas_train.weights import begin, figures_path, started_backbone

if TYPE_CHECKING:
    from lightning.pytorch.loggers import WandbLogger

    from pas_train.cli import PasCLI


@dataclass
class Tracking:
    """Weights & Biases.

    Args:
        enabled: False logs to metrics.csv and results.json only.
        project: Project of the runs.
        offline: True never asks the server; null goes offline, and says so, where there is no key.
    """

    enabled: bool = True
    project: str = "pas"
    offline: bool | None = None


def train(
    cli: "PasCLI", model: LightningModule, data: LightningDataModule, run: Run, ckpt_path: str | None,
    screening: Screening,
) -> None:  # fmt: skip
    """Trains what is not trained, judges what is not judged, and ends with the table and the report."""
    trainer: Trainer = cli.trainer
    zero = trainer.is_global_zero
    tracked = None
    if run.trained and run.results is not None:
        if zero:
            print(f"training    finished before: {run.folder}")
    else:
        loggers = attach(cli, run, ckpt_path or run.last)
        whole = to_judge(trainer, model)
        if not run.trained:
            fit(trainer, model, data, run, ckpt_path)
        meet = meeting_place()
        if zero:
            # A module without a backbone (CLIPN's tower) is trained here too, but there is nothing to judge.
            judged = hasattr(model, "backbone")
            results = judge(cli, whole, run, screening) if judged else run.write_results({}, {})
            tracked = _track(cli, loggers[1:], results)
        meet()
    if zero:
        made_here = cli.options.get("curation") is not None
        report = curated.write_report(cli.workspace) if made_here else None
        figures = curated.data_set_figures(cli.workspace) if made_here else None
        print(summary.table(figures, run, report, tracked))


def attach(cli: "PasCLI", run: Run, start: str | Path | None) -> list[Logger]:
    """Gives the trainer this run's folder, checkpoints and loggers: metrics.csv, then W&B where it is wanted.

    start: the checkpoint that the training goes on from, if there is one.
    """
    trainer, tracking = cli.trainer, cli.config_init[cli.subcommand]["tracking"]
    metrics = CSVLogger(run.folder, name="", version="", flush_logs_every_n_steps=20)
    loggers: list[Logger] = [metrics]
    if trainer.is_global_zero:
        run.save_config(cli.dumped_config())
        keep_history(metrics, None if run.trained else load(start)["global_step"] if start else 0)
        if tracking.enabled:
            curation = cli.options.get("curation")
            data_set = {"source": described(run.source), "identity": run.data_identity}
            config = {**cli.plain_config(), "data_set": data_set}
            tracked = make_wandb_logger(
                tracking.project,
                curation.domain if curation else "data",
                run.name,
                run.folder,
                config,
                tracking.offline,
            )
            loggers += [tracked] if tracked is not None else []
    trainer.loggers = loggers
    cast(Any, trainer).callbacks.insert(0, RememberDataSet(run.origin))
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(run.checkpoints.resolve())
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
    return loggers


def fit(trainer: Trainer, model: LightningModule, data: LightningDataModule, run: Run, ckpt_path: str | None) -> None:
    """Trains from the given checkpoint, else from the run's last one, else from the start."""
    start = ckpt_path or run.last
    if trainer.is_global_zero:
        if not run.untrained.exists() and hasattr(model, "backbone"):
            save_whole(backbone_of(model).state_dict(), run.untrained)
        print(f"training    {f'goes on from {start}' if start else 'starts'}: {run.folder}", flush=True)
    if start is None:
        begin(model, run.untrained.with_name("start.pt"))
    with StopSignals() as signals:
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, Checkpoints):
                callback.signals = signals
        # Our own checkpoint, or one that the person names: it may hold the state of loaders and callbacks.
        trainer.fit(model, datamodule=data, ckpt_path=start, weights_only=False)
    if trainer.is_global_zero:
        run.mark_trained(trainer.global_step, trainer.current_epoch)


def backbone_of(model: LightningModule) -> nn.Module:
    """The part of a method that is evaluated and exported."""
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise ValueError(f"model: {type(model).__name__} has no backbone to evaluate; use a class of pas_train.methods")
    return backbone


def judge(cli: "PasCLI", model: LightningModule, run: Run, screening: Screening) -> dict[str, Any]:
    """Evaluates the trained backbone of a run beside its baselines and writes results.json."""
    import copy

    if run.last is not None:
        model.load_state_dict(load(run.last)["state_dict"])
    trained = backbone_of(model)
    untrained = copy.deepcopy(trained)
    if run.untrained.exists():
        untrained.load_state_dict(torch.load(run.untrained, map_location="cpu"))
    if cli.config_init[cli.subcommand]["evaluation"].datasets:
        print("evaluation  starts", flush=True)
    start = started_backbone(trained, run.untrained.with_name("start.pt"))
    figures = evaluate(cli, model, trained, untrained, start)
    return run.write_results(figures, {"evaluation": cli.plain_config().get("evaluation")}, screening)


def evaluate(
    cli: "PasCLI", model: Any, trained: nn.Module, untrained: nn.Module | None, start: nn.Module | None = None
) -> dict[str, Any]:
    """The figures of all configured evaluations, in the shape of results.json."""
    evaluation = cli.config_init[cli.subcommand]["evaluation"]
    mean = [float(value) / 255 for value in model.mean.flatten()]
    std = [float(value) / 255 for value in model.std.flatten()]
    device = cli.trainer.strategy.root_device
    size = int(getattr(cli.datamodule, "image_size", None) or model.image_size)
    return evaluation.run(trained, untrained, mean, std, device, cli.workspace, size, start)


def evaluate_checkpoint(cli: "PasCLI", model: LightningModule, ckpt_path: str | None) -> None:
    """The commands `evaluate` and `test`: figures of a checkpoint, printed and kept beside it."""
    checkpoint = load_weights(model, ckpt_path, "to evaluate")
    evaluation = cli.config_init[cli.subcommand]["evaluation"]
    if not evaluation.datasets:
        raise ValueError(
            "evaluation.datasets is empty; name the labelled images to judge the backbone on, such as "
            "--evaluation.datasets '[{name: food, train: DIR, test: DIR}]': folders of class folders, or CSVs of path "
            "and label"
        )
    path = Path(str(ckpt_path))
    screening = screen(evaluation, cli.workspace, origin_of_checkpoint(checkpoint, path))
    if cli.trainer.is_global_zero:
        from datamodules.files import write_json

        figures = evaluate(cli, model, backbone_of(model), None)
        path = figures_path(str(ckpt_path), cli.workspace)
        step = checkpoint["global_step"]
        write_json(
            path,
            {"version": VERSION, "checkpoint": ckpt_path, "step": step, "screening": screening, "evaluation": figures},
        )
        print(summary.accuracies(figures, screening, "published" if step is None else "trained"))
        print(f"figures     {path}")


def _track(cli: "PasCLI", loggers: list[Logger], results: dict[str, Any]) -> str | None:
    """Sends the curation's figures, sample pictures and the evaluation to W&B; returns where the run lies."""
    where = None
    for logger in cast("list[WandbLogger]", loggers):
        if cli.options.get("curation") is not None:
            log_curation(logger, **curated.data_set_pictures(cli.workspace))
        log_results(logger, results["evaluation"])
        logger.finalize("success")
        run = logger.experiment
        where = str(Path(run.dir).parent) if run.offline else str(run.url)
    return where
