"""LightningCLI behind fit, validate, test and predict; `evaluate` is `test`."""

import copy
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from datamodules.files import within
from datamodules.pretrain import PretrainDataModule
from datamodules.sources import check_sources, names_of, placed
from pas_train import curated, predicting
from pas_train.checkpointing import Checkpoints
from pas_train.checkpoints import check_weights, load_weights, read_checkpoint
from pas_train.configs import with_run_config
from pas_train.errors import plainly
from pas_train.evaluating import check_backbones, evaluate_checkpoint
from pas_train.evaluation.evaluation import Evaluation
from pas_train.evaluation.screening import origin_of_training, screen, screen_before
from pas_train.fitting import Tracking, train
from pas_train.methods.base import PretrainingMethod
from pas_train.parsing import ShortErrors
from pas_train.runs import Run
from pas_train.throughput import Throughput
from pas_train.watch import Watch
from pas_train.weights import check_start, origin_of_start, own_start

NOISE = ("💡 Tip:", "TPU available", "Restoring states from", "Restored all states from")


class ShortParser(ShortErrors, LightningArgumentParser):
    """LightningCLI's parser with short errors."""


class PasCLI(LightningCLI):
    """The yaml's `trainer`, `model`, `data`, with `curation`, `evaluation` and `tracking` beside them."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """That of the command line: to build the parsers of all takes longer."""
        every = LightningCLI.subcommands()
        return {name: skipped for name, skipped in every.items() if name in sys.argv[1:2]} or every

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the sections that are ours."""
        parser.add_argument(
            "--workspace", type=str | None, default=None, help="folder of the data set; default runs/<domain>"
        )
        parser.add_argument("--pool", type=str | None, default=None, help="folder of images, or of shards")
        parser.add_argument("--curation", type=curated.curation_class() | None, default=None, help="the pipeline")
        parser.add_argument("--evaluation", type=Evaluation, default=Evaluation(), help="what to judge the backbone on")
        parser.add_argument("--tracking", type=Tracking, default=Tracking(), help="Weights & Biases")
        parser.add_lightning_class_args(Checkpoints, "checkpoint")
        parser.add_lightning_class_args(Watch, "watch")
        parser.add_lightning_class_args(Throughput, "throughput")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Adds what one subcommand alone has."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.add_argument(
                "--output", type=str | None, default=None, help="folder; default <workspace>/embeddings/<checkpoint>"
            )
        return parser

    def before_instantiate_classes(self) -> None:
        """Makes the trainer agree with torchrun or SLURM, then checks what can be checked without a model."""
        trainer = self.options["trainer"]
        # A bar redraws itself, which in a file is one endless line; `throughput` writes whole lines there.
        if trainer["enable_progress_bar"] is None and not sys.stdout.isatty():
            trainer["enable_progress_bar"] = False
        trainer["devices"], trainer["num_nodes"] = curated.launched_devices(trainer["devices"], trainer["num_nodes"])

    @property
    def options(self) -> Any:
        """The parsed configuration of the subcommand."""
        return self.config[self.subcommand]

    @property
    def workspace(self) -> Path:
        """The folder of the data set."""
        curation = self.options.get("curation")
        domain, variant = (curation.domain, curation.variant) if curation is not None else (None, None)
        return curated.workspace_path(self.options.get("workspace"), domain, variant)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """By the subcommand's own parser: through the one above it, which alone prints, all is looked at twice."""
        command = next(iter(self._subcommand_parsers))
        if sys.argv[1:2] != [command] or any(word.startswith("--print_config") for word in sys.argv):
            super().parse_arguments(parser, args)
        else:
            parsed = self._subcommand_parsers[command].parse_args(sys.argv[2:])
            self.config = Namespace({"subcommand": command, command: parsed})

    def _parse_ckpt_path(self) -> None:
        """Keeps the command line's settings; LightningCLI would let a checkpoint's override them."""

    def fit(
        self, model: LightningModule, datamodule: LightningDataModule, ckpt_path: str | None = None, **_: Any
    ) -> None:
        """Curates what is missing, trains what is not trained, judges what is not judged, and writes the report."""
        if isinstance(model, PretrainingMethod) and isinstance(datamodule, PretrainDataModule):
            model.check_images(datamodule.image_size)
        if ckpt_path is not None:
            check_weights(model, read_checkpoint(ckpt_path, "to go on from"), ckpt_path)
        built = self.config_init[self.subcommand]
        evaluation: Evaluation = built["evaluation"]
        curation = built.get("curation")
        if curation is None and isinstance(datamodule, PretrainDataModule) and datamodule.source is not None:
            check_sources(placed(datamodule.source, self.workspace))
        evaluation.check(self.workspace, made=curation is not None and curation.scenes is not None)
        check_backbones(self, model)
        if ckpt_path is None:
            check_start(model, self.workspace)
        self._place(datamodule)
        data: Any = datamodule
        source = getattr(data, "source", None)
        own = [curated.workspace_of(one) for one in names_of(source)]
        if curation is not None and (source is None or self.workspace.resolve() in own):
            screen_before(evaluation, self.workspace, curation.leakage)
        if curation is not None:
            manifest = curated.run_curation(curation, self.workspace, built.get("pool"), built["trainer"].as_dict())
            if source is None:
                source = data.source = str(manifest)
        if isinstance(data, PretrainDataModule):
            check_sources(source)
        run = Run(self.workspace, self.plain_config(), source)
        if isinstance(data, PretrainDataModule) and not run.trained:
            shown = data.check(self.trainer.world_size)
            if shown and self.trainer.is_global_zero:
                print(f"{'data':<12}{shown}", flush=True)
        start = Path(ckpt_path) if ckpt_path is not None else run.last
        run.origin = origin_of_training(run.source, run.data_identity, start or own_start(model))
        run.origin = run.origin if start is not None else origin_of_start(model, run.origin)
        train(self, model, datamodule, run, ckpt_path, screen(evaluation, self.workspace, run.origin))

    def test(
        self, model: LightningModule, datamodule: LightningDataModule, ckpt_path: str | None = None, **_: Any
    ) -> None:
        """All configured evaluations of a checkpoint."""
        evaluate_checkpoint(self, model, ckpt_path)

    def predict(
        self, model: LightningModule, datamodule: LightningDataModule, ckpt_path: str | None = None, **_: Any
    ) -> None:
        """Embeddings of an image source."""
        self._place(datamodule)
        predicting.predict(self, model, datamodule, ckpt_path)

    def validate(
        self, model: LightningModule, datamodule: LightningDataModule, ckpt_path: str | None = None, **_: Any
    ) -> None:
        """The online k-NN protocol of a checkpoint."""
        if getattr(datamodule, "knn_bank", "") is None:
            raise ValueError(
                "data.knn_bank and data.knn_queries are not set; validate needs labelled images to judge on"
            )
        load_weights(model, ckpt_path, "to validate")
        self._place(datamodule)
        self.trainer.validate(model, datamodule=datamodule)

    def _place(self, datamodule: LightningDataModule) -> None:
        """Makes `workspace:` paths of the data module real."""
        for name in ("knn_bank", "knn_queries", "cache_folder"):
            if getattr(datamodule, name, None) is not None:
                setattr(datamodule, name, str(within(getattr(datamodule, name), self.workspace)))
        if getattr(datamodule, "default_cache", "") is None:
            datamodule.default_cache = self.workspace / "images"  # type: ignore[attr-defined]
        if getattr(datamodule, "source", None) is not None:
            datamodule.source = placed(datamodule.source, self.workspace)  # type: ignore[attr-defined]

    def _dump_config(self) -> None:
        """What model and data module remember of the configuration, for their checkpoints."""
        if not hasattr(self, "config_dump"):
            self.config_dump = yaml.safe_load(self._dumped(skip_link_targets=False))

    def _dumped(self, skip_link_targets: bool = True) -> str:
        """As it was parsed, so it need not be checked again."""
        parser = self._parser(self.subcommand)
        text = parser.dump(
            self.options, skip_unset=False, skip_validation=True, skip_link_targets=skip_link_targets, format="yaml"
        )
        return str(text)

    def dumped_config(self) -> str:
        """The configuration with every default, as yaml that --config takes."""
        return self._dumped()

    def plain_config(self) -> dict[str, Any]:
        """The configuration as plain dictionaries."""
        config = copy.deepcopy(self.options).as_dict()
        return {key: value for key, value in config.items() if key not in ("config", "ckpt_path")}


def lightning_command(command: str, args: Sequence[str]) -> None:
    """Runs one of LightningCLI's subcommands on sys.argv."""
    # Lightning's advertisement and what our own lines say already, and a deprecation inside Lightning that nobody here
    # can mend.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: not record.getMessage().startswith(NOISE)
    )
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    plainly()
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # the throughput says what is slow
    PasCLI(
        trainer_class=Trainer,
        trainer_defaults={"use_distributed_sampler": False, "logger": False, "enable_model_summary": False},
        save_config_callback=None,
        seed_everything_default=0,
        parser_class=ShortParser,
        # Abbreviations would take a mistyped key for another one.
        parser_kwargs={"parser_mode": "omegaconf", "allow_abbrev": False},
        auto_configure_optimizers=False,
    )


def evaluate(command: str, args: Sequence[str]) -> None:
    """The commands `evaluate` and `test`; what no yaml tells is that of the checkpoint's run."""
    given, own = with_run_config(args)
    if own is not None:
        rank_zero_only(print)(f"{'config':<12}{own}, as no other tells the model", flush=True)
    sys.argv[1:] = ["test", *given]
    lightning_command("test", given)
