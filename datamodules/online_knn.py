"""The labelled images of the online k-NN protocol: a bank whose labels are predicted from, and queries."""

from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.utils.data import DataLoader

from datamodules.labelled import LabelledDataset, LabelledImages, read_labelled, shared_images
from datamodules.loaders import QuietLoader
from datamodules.sampling import RankRows

LARGEST_BATCH = 256


def read_knn_sets(bank: str, queries: str) -> list[LabelledImages]:
    """The bank, then the queries with labels counted in the bank's classes; tells of queries that are in the bank."""
    known = read_labelled(bank, "data.knn_bank")
    asked = read_labelled(queries, "data.knn_queries").aligned(known.classes, "data.knn_queries")
    shared = shared_images(known, asked)
    if shared:
        _tell(
            f"{'k-NN':<12}{shared} of {len(asked)} images of data.knn_queries are in data.knn_bank too, and find "
            "themselves: val/knn_top1 flatters"
        )
    return [known, asked]


@rank_zero_only
def _tell(line: str) -> None:
    print(line, flush=True)


def knn_loaders(
    sets: list[LabelledImages], image_size: int, batch_size: int, rank: int, world_size: int, options: dict[str, Any]
) -> list[DataLoader]:
    """A loader of each set, this rank's share; batch_size: of all ranks."""
    return [
        QuietLoader(
            LabelledDataset(images, image_size),
            batch_size=min(LARGEST_BATCH, max(1, batch_size // world_size)),
            sampler=RankRows(len(images), rank, world_size),
            **options,
        )
        for images in sets
    ]
