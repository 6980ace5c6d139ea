"""What `fit` does once the data set is there: train or go on, evaluate, track, report."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger

from pas_train import curated, summary
from pas_train.artifacts import KINDS, Kind, log_artifacts
from pas_train.backbones import backbone_of
from pas_train.checkpoint_io import AtomicCheckpointIO, save_whole
from pas_train.checkpointing import Checkpoints
from pas_train.checkpoints import load
from pas_train.evaluating import judge, write_results
from pas_train.evaluation.judging import Judged
from pas_train.evaluation.screening import RememberDataSet, Screening
from pas_train.history import keep_history
from pas_train.ranks import meeting_place, to_judge
from pas_train.records import record_of, remember
from pas_train.runs import Run, described
from pas_train.stopping import StopSignals
from pas_train.tracking import log_curation, log_results, make_wandb_logger
from pas_train.weights import begin

if TYPE_CHECKING:
    from lightning.pytorch.loggers import WandbLogger

    from pas_train.cli import PasCLI

TAG_LENGTH = 64  # of W&B's


@dataclass
class Tracking:
    """Weights & Biases.

    Args:
        enabled: False logs to metrics.csv and results.json only.
        project: Project of the runs.
        group: Runs that belong together; null takes the data set's domain.
        tags: Words to find a run by, here and in `compare`.
        job_type: Kind of the runs.
        notes: What a run is for.
        artifacts: What is kept there: data_set (its manifest), backbone (its weights), results (results.json).
        offline: True never asks the server; null goes offline, and says so, where there is no key.
    """

    enabled: bool = True
    project: str = "pas"
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    job_type: str = "pretrain"
    notes: str | None = None
    artifacts: list[Kind] = field(default_factory=lambda: list(KINDS))
    offline: bool | None = None

    def __post_init__(self) -> None:
        wrong = [tag for tag in self.tags if not 0 < len(tag) <= TAG_LENGTH]
        if wrong:
            raise ValueError(f"tracking.tags: W&B takes tags of 1 to {TAG_LENGTH} characters, got {wrong[0]!r}")


def train(
    cli: "PasCLI", model: LightningModule, data: LightningDataModule, run: Run, ckpt_path: str | None,
    screening: Screening,
) -> None:  # fmt: skip
    """Trains what is not trained, judges what is not judged, and ends with the table and the report."""
    trainer: Trainer = cli.trainer
    zero = trainer.is_global_zero
    tracked = None
    if run.trained and zero:
        print(f"training    finished before: {run.folder}")
    if run.trained and run.judged(cli.plain_config().get("evaluation")):
        if zero:
            if "WANDB_SWEEP_ID" in os.environ:  # an agent's run is to hold the results all the same
                tracked = _track(cli, attach(cli, run, run.last)[1:], run, None, run.results or {})
    else:
        loggers = attach(cli, run, ckpt_path or run.last)
        whole = to_judge(trainer, model)
        if not run.trained:
            fit(cli, model, data, run, ckpt_path)
        meet = meeting_place()
        results: dict[str, Any] = {}
        # All ranks judge. A module without a backbone (CLIPN's tower) is trained here too, but has nothing to judge.
        if hasattr(model, "backbone"):
            results = judge(cli, whole, data, run, screening)
        elif zero:
            results = write_results(cli, whole, data, run, {}, Judged())
        if zero:
            tracked = _track(cli, loggers[1:], run, whole, results)
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
            group = tracking.group or (curation.domain if curation else "data")
            tracked = make_wandb_logger(
                tracking.project, group, run.name, run.folder, config, tracking.offline, tracking.job_type,
                tracking.tags, tracking.notes,
            )  # fmt: skip
            loggers += [tracked] if tracked is not None else []
    trainer.loggers = loggers
    cast(Any, trainer).callbacks.insert(0, RememberDataSet(run.origin))
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(run.checkpoints.resolve())
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
    return loggers


def fit(cli: "PasCLI", model: LightningModule, data: LightningDataModule, run: Run, ckpt_path: str | None) -> None:
    """Trains from the given checkpoint, else from the run's last one, else from the start."""
    trainer: Trainer = cli.trainer
    start = ckpt_path or run.last
    if trainer.is_global_zero:
        if not run.untrained.exists() and hasattr(model, "backbone"):
            save_whole(backbone_of(model).state_dict(), run.untrained)
        if getattr(data, "rows", None) is not None:
            remember(run, record_of(cli, model, data, run))
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
        remember(run, record_of(cli, model, data, run))  # the data module may have opened its images only now
        run.mark_trained(trainer.global_step, trainer.current_epoch)


def _track(
    cli: "PasCLI", loggers: list[Logger], run: Run, model: LightningModule | None, results: dict[str, Any]
) -> str | None:
    """Sends the curation's figures, sample pictures, results and artifacts to W&B; returns where the run lies.

    model: with its final weights; None sends no backbone.
    """
    where = None
    kinds, settings = cli.config_init[cli.subcommand]["tracking"].artifacts, cli.plain_config()["model"]
    for logger in cast("list[WandbLogger]", loggers):
        if cli.options.get("curation") is not None:
            log_curation(logger, **curated.data_set_pictures(cli.workspace))
        log_results(logger, results)
        log_artifacts(logger, kinds, run, model, settings, results)
        logger.finalize("success")
        tracked = logger.experiment
        where = str(Path(tracked.dir).parent) if tracked.offline else str(tracked.url)
    return where
