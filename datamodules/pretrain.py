"""Unlabelled images as batches of two augmented views, restartable at any step."""

import os
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.utils.data import DataLoader, Dataset

from datamodules.decoding import ImageLimits
from datamodules.image_source import ImageSource
from datamodules.labelled import LIMITS, LabelledImages
from datamodules.loaders import QuietLoader, RestartableLoader, as_it_is, place_of
from datamodules.mixing import Group, MixedBatches, make_groups, shown
from datamodules.online_knn import knn_loaders, read_knn_sets
from datamodules.photometry import finish_views
from datamodules.rows import PlainBatches
from datamodules.sampling import GlobalBatches
from datamodules.shrinking import Shrinking, shrunk
from datamodules.sources import SourceItem, names_of, open_sources, source_items
from datamodules.two_views import TwoViewDataset
from datamodules.views import VIEW_1, VIEW_2, ViewPair, ViewSettings
from datamodules.workers import heed_parent_only

NAMED = 3  # images that cannot be read, by name in the warning


class PretrainDataModule(LightningDataModule):
    """Images for pretraining, and labelled images for the online k-NN protocol.

    Args:
        source: a manifest.parquet of a curated data set, a folder of images, a tar shard or a folder of shards,
            a CSV of paths, `torchvision:CLASS?root=DIR&split=train`, `hf:NAME_OR_DIR?split=train&column=image`, a known
            data set such as `food-2k:DIR`; or a list of such, each alone or as {source: ..., weight: ...,
            synthetic: ...}.
        batch_size: images of a step over all devices together; each device gets its share.
        image_size: side of the views in pixels.
        view1: augmentation of the first view.
        view2: augmentation of the second view.
        num_workers: loading processes per device; by default the cores of the machine shared among its devices.
        seed: of the order and the augmentations.
        knn_bank: labelled images whose labels k-NN predicts from: class folders, a CSV of path,label, or a data set by
            name such as food-101:DIR?split=train.
        knn_queries: labelled images that are predicted; `val/knn_top1` is the share that is right.
        limits: what an image must be to be decoded.
        prefetch_factor: batches made ahead by each worker.
        synthetic_share: share of synthetic images in an epoch, 0 to 1; null takes real and synthetic ones as they come.
        epoch_images: images of an epoch; null: as many as there are. With weights, a synthetic_share or a number here,
            images come in one permutation after another across epochs, so that each comes as often as its likes.
        short_side: null decodes the images as they are, as strict reproductions must. A number (256 to 320 for views of
            224) re-encodes them once, before training, to so many pixels on the short side, never upscaled: less to
            read and decode in every epoch, and slightly other pixels.
        short_side_quality: of these images' JPEG, 1 to 100.
        cache_folder: where the re-encoded shards are kept, on a disk that all nodes see; null: beside the manifest, or
            in the workspace.
        photometry: where colours, blur and inversion are computed: by the workers, on the device, or (auto) on the
            device if that is a CUDA GPU. Both agree to about a grey level; the draws are the same.
        scaled_decoding: whether a JPEG is decoded at a half, a quarter or an eighth where both crops keep twice the
            pixels that the views have; they then differ by less than a grey level on average. False for strict
            reproductions.
    """

    def __init__(
        self,
        source: str | list[str | SourceItem] | None = None,
        batch_size: int = 4096,
        image_size: int = 224,
        view1: ViewSettings = VIEW_1,
        view2: ViewSettings = VIEW_2,
        num_workers: int | None = None,
        seed: int = 0,
        knn_bank: str | None = None,
        knn_queries: str | None = None,
        limits: ImageLimits = LIMITS,
        prefetch_factor: int = 2,
        synthetic_share: float | None = None,
        epoch_images: int | None = None,
        short_side: int | None = None,
        short_side_quality: int = 90,
        cache_folder: str | None = None,
        photometry: Literal["auto", "worker", "device"] = "auto",
        scaled_decoding: bool = True,
    ) -> None:
        super().__init__()
        for name, value in (
            ("batch_size", batch_size),
            ("image_size", image_size),
            ("prefetch_factor", prefetch_factor),
        ):
            if value < 1:
                raise ValueError(f"data.{name} must be at least 1, got {value}")
        if short_side is not None and short_side < image_size:
            raise ValueError(f"data.short_side must be at least data.image_size {image_size}, got {short_side}")
        if not 1 <= short_side_quality <= 100:
            raise ValueError(f"data.short_side_quality must be between 1 and 100, got {short_side_quality}")
        if num_workers is not None and num_workers < 0:
            raise ValueError(f"data.num_workers must be at least 0, or null, got {num_workers}")
        if synthetic_share is not None and not 0 <= synthetic_share <= 1:
            raise ValueError(f"data.synthetic_share must be between 0 and 1, got {synthetic_share}")
        if epoch_images is not None and epoch_images < batch_size:
            raise ValueError(
                f"data.epoch_images must be at least data.batch_size {batch_size}, got {epoch_images}; an epoch has "
                "whole batches only"
            )
        if (knn_bank is None) != (knn_queries is None):
            raise ValueError("data.knn_bank and data.knn_queries belong together; give both or neither")
        self.source = source
        self.batch_size = batch_size
        self.image_size = image_size
        self.views = (view1, view2)
        self.num_workers = num_workers
        self.seed = seed
        self.knn_bank = knn_bank
        self.knn_queries = knn_queries
        self.limits = limits
        self.prefetch_factor = prefetch_factor
        self.synthetic_share = synthetic_share
        self.epoch_images = epoch_images
        self.photometry = photometry
        self.scaled_decoding = scaled_decoding
        self.shrinking = None if short_side is None else Shrinking(short_side, short_side_quality)
        self.cache_folder = cache_folder
        self.default_cache: Path | None = None  # for sources without a manifest; the command line gives the workspace's
        self.prepare_data_per_node = False  # one process writes the shards of all
        self.rows: ImageSource | None = None
        self.knn_sets: list[LabelledImages] = []
        self._restored: dict[str, Any] | None = None
        self._images: str | None = None  # identity of the rows
        self._named = self._warned = False  # whether images that cannot be read, and too many workers, were told

    def prepare_data(self) -> None:
        """Writes the shards of the short side, in one process while the others wait."""
        reading = self.trainer is None or self.trainer.state.fn in ("fit", "predict")
        if self.shrinking is not None and self.rows is None and reading:
            self.rows = open_sources(self.source, self._shrunk)

    def _shrunk(self, name: str, source: ImageSource) -> ImageSource:
        assert self.shrinking is not None
        path = Path(name)
        beside = path.parent if path.suffix == ".parquet" else self.default_cache
        folder = beside if self.cache_folder is None else Path(self.cache_folder)
        if folder is None:
            raise ValueError(
                f"data.short_side: {name} has no manifest to keep the re-encoded images beside; name a folder for them "
                "with data.cache_folder"
            )
        workers = self._cores()[0] if self.num_workers is None else self.num_workers  # the other ranks wait
        return shrunk(source, name, folder, self.shrinking, self.limits, workers)

    def check(self, world_size: int) -> str:
        """Raises what `setup` would, before anything of a run exists; returns what will be shown, in words.

        With short_side the images are re-encoded first, so that only the labelled images are looked at.
        """
        if self.shrinking is not None:
            self.setup("validate")
            return ""
        self.setup("fit", world_size)
        assert self.rows is not None
        batches = len(self._sampler(0, world_size))
        return f"{shown(self.rows, self._groups())}, {batches} steps an epoch"

    def setup(self, stage: str, world_size: int | None = None) -> None:
        """Reads the index (fit) and the labelled sets; checks that the batch fits the data and the devices."""
        if self.knn_bank is not None and self.knn_queries is not None and not self.knn_sets:
            self.knn_sets = read_knn_sets(self.knn_bank, self.knn_queries)
        if stage not in ("fit", "predict"):
            return
        if stage == "fit" and not self.knn_sets and self.trainer is not None:
            self.trainer.limit_val_batches = 0  # nothing to validate on, and Lightning would warn of it
        if self.rows is None:
            self.rows = open_sources(self.source, self._shrunk if self.shrinking else None)
        if stage == "predict":
            return
        world_size = world_size or self._ranks()[1]
        if self.batch_size % world_size:
            raise ValueError(
                f"data.batch_size {self.batch_size} cannot be shared among {world_size} devices; it is the batch of "
                f"all together, so make it a multiple of {world_size}"
            )
        if len(self.rows) < self.batch_size and not self.epoch_images:
            names = " and ".join(names_of(self.source))
            raise ValueError(
                f"data.batch_size is {self.batch_size}, but {names} has only {len(self.rows)} images; lower "
                "data.batch_size, or add images"
            )
        batches = len(self._sampler(0, world_size))  # what is wrong with the mixture is said before anything starts
        if self.trainer is not None:  # an epoch shorter than the interval would log nothing
            trainer: Any = self.trainer
            trainer.log_every_n_steps = min(trainer.log_every_n_steps, max(1, batches))

    def train_dataloader(self) -> DataLoader:
        """Batches of the training's data set, this rank's share."""
        assert self.rows is not None  # setup has run
        self._check_restored()
        rank, world_size = self._ranks()
        sampler = self._sampler(rank, world_size)
        trainer = self.trainer
        if trainer is not None:
            sampler.place = lambda: place_of(trainer, len(sampler))
        dataset = self._training_set(self.rows, finished=not self._on_device())
        # One item is one batch: the worker writes the views where the batch needs them.
        return RestartableLoader(dataset, batch_size=None, sampler=sampler, collate_fn=as_it_is, **self._workers())

    def _training_set(self, rows: ImageSource, finished: bool) -> Dataset:
        """Batches by passes and rows. finished: with the photometry, which the device does else."""
        pair = ViewPair(self.image_size, self.views, self.seed)
        pair.compile()
        return TwoViewDataset(rows, pair, self.limits, finished, reduced=self.scaled_decoding)

    def val_dataloader(self) -> list[DataLoader]:
        """Loaders of the k-NN bank and of its queries, or none."""
        rank, world_size = self._ranks()
        options = self._workers() | {"persistent_workers": False}
        return knn_loaders(self.knn_sets, self.image_size, self.batch_size, rank, world_size, options)

    def predict_dataloader(self) -> DataLoader:
        """Batches {"image": uint8 [B, 3, S, S], "row": int64 [B]} of this rank: all images of `source` in order."""
        assert self.rows is not None  # setup has run
        rank, world_size = self._ranks()
        size = min(256, max(1, self.batch_size // world_size))
        dataset = PlainBatches(self.rows, self.image_size, size, self.limits)
        options = self._workers() | {"persistent_workers": False}
        sampler = range(rank, len(dataset), world_size)  # ranks need not have as many: nothing is exchanged
        return QuietLoader(dataset, batch_size=None, sampler=sampler, collate_fn=as_it_is, **options)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Names the first images that could not be read, once; all are counted in train/replaced_images."""
        unreadable = batch.pop("unreadable", []) if isinstance(batch, dict) else []
        if unreadable and not self._named:
            self._named = True
            warnings.warn(  # on every rank: each has images of its own
                "data.source: images that cannot be read give place to the next one of their kind; the first: "
                f"{'; '.join(list(dict.fromkeys(unreadable))[:NAMED])}. train/replaced_images counts them",
                stacklevel=1,
            )
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Turns crops and what is left to do with them into views, on the device."""
        if not isinstance(batch, dict) or "photometry" not in batch:
            return batch
        photometry, order = batch.pop("photometry"), batch.pop("photometry_order")
        sigma_max = max(view.blur_sigma_max if view.blur else 0 for view in self.views)
        return batch | {"views": finish_views(batch["views"], photometry, order, sigma_max)}

    def state_dict(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to continue on the same batches."""
        if self.rows is None:
            return {}
        self._images = self._images or self.rows.fingerprint()  # once: some sources read images for it
        state = {"images": self._images, "batch_size": self.batch_size, "seed": self.seed}
        mixing = self._mixing()
        return {**state, "mixing": mixing} if mixing else state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps a checkpoint's identity for the check before training."""
        self._restored = state_dict

    def _check_restored(self) -> None:
        current, restored = self.state_dict(), self._restored or {}
        names = dict.fromkeys([*restored, *current]) if restored else ()
        changed = [name for name in names if restored.get(name) != current.get(name)]
        if changed:
            name = changed[0]
            settings = {"images": "source", "mixing": "source (its weights), synthetic_share or epoch_images"}
            raise ValueError(
                f"data.{settings.get(name, name)} is not what the checkpoint was trained with ({restored.get(name)}, "
                f"now {current.get(name)}), so the training cannot continue where it was. Use the same settings, or "
                "start a new run without ckpt_path"
            )

    def _mixing(self) -> dict[str, Any]:
        """What makes an epoch other than every image once; empty where nothing does."""
        weights = [item.weight for item in source_items(self.source)]
        mixing = {"synthetic_share": self.synthetic_share, "epoch_images": self.epoch_images}
        mixing["weights"] = weights if len(weights) > 1 and None not in weights else None  # type: ignore[assignment]
        return {name: value for name, value in mixing.items() if value is not None}

    def _sampler(self, rank: int, world_size: int) -> GlobalBatches:
        assert self.rows is not None
        groups = self._groups()
        if not groups:
            return GlobalBatches(len(self.rows), self.batch_size, self.seed, rank, world_size)
        images = self.epoch_images or len(self.rows)
        return MixedBatches(groups, images, self.batch_size, self.seed, rank, world_size)

    def _groups(self) -> list[Group]:
        assert self.rows is not None
        mixing = self._mixing()
        return make_groups(self.rows, mixing.get("weights"), self.synthetic_share) if mixing else []

    def _on_device(self) -> bool:
        if self.photometry == "auto":
            return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return self.photometry == "device"

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _cores(self) -> tuple[int, int]:
        """Cores of this machine, and the devices that share them."""
        return len(os.sched_getaffinity(0)), self.trainer.num_devices if self.trainer is not None else 1

    def _worker_count(self) -> int:
        cores, devices = self._cores()
        return max(1, cores // devices) if self.num_workers is None else self.num_workers

    def _workers(self) -> dict[str, Any]:
        cores, devices = self._cores()
        workers = self._worker_count()
        if workers * devices > cores and not self._warned:
            self._warned = True
            of = f" for each of {devices} devices" if devices > 1 else ""
            rank_zero_warn(
                f"data.num_workers is {workers}{of}, but this machine lends {cores} cores; the loading processes will "
                f"take turns, and take memory each. {max(1, cores // devices)} or null (which counts) is as fast"
            )
        options: dict[str, Any] = {"num_workers": workers, "pin_memory": torch.cuda.is_available()}
        if workers == 0:
            return options
        kept = {"persistent_workers": True, "prefetch_factor": self.prefetch_factor}
        return options | kept | {"worker_init_fn": heed_parent_only}
