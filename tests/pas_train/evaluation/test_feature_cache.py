from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from datamodules.labelled import LabelledImages
from pas_train.evaluation.candidates import identity
from pas_train.evaluation.feature_cache import StoredFeatures, extract, stored
from pas_train.evaluation.features import Transform
from pas_train.ranks import Meeting
from tests.pas_train.evaluation.shades import expected, shades

COUNT = 1100  # three parts
TRANSFORM = Transform(4, (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))


class Colour(nn.Module):
    """The mean of each colour; it stops after some batches."""

    def __init__(self, stop: int = 10**6) -> None:
        super().__init__()
        self.scale, self.left = nn.Parameter(torch.ones(1)), stop

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("killed")
        return x.mean(dim=(2, 3)) * self.scale


def store_of(root: Path, images: LabelledImages, **more: Any) -> StoredFeatures:
    known = {"backbone": "net", "identity": "1234", "name": "set-train", "transform": TRANSFORM, **more}
    return stored(root, images=images, **known)


def make(store: StoredFeatures, images: LabelledImages, backbone: nn.Module | None = None) -> None:
    extract([(store, images)], backbone or Colour(), TRANSFORM, torch.device("cpu"), 128, 0, Meeting(), "features")


def test_extract__is_read_back_as_a_memory_map(tmp_path: Path) -> None:
    images = shades(COUNT)
    store = store_of(tmp_path, images)
    assert not store.whole and store.missing() == [0, 1, 2]
    make(store, images)
    again = store_of(tmp_path, images)
    values = again.open()
    assert again.whole and isinstance(values, np.memmap) and values.dtype == np.float32
    np.testing.assert_allclose(values, expected(COUNT), atol=1e-3)
    assert sorted(path.name for path in again.folder.iterdir()) == ["features.npy", "record.json"]
    assert again.folder.name.startswith("net-set-train-4px-")


def test_extract__goes_on_with_the_missing_parts(tmp_path: Path) -> None:
    images = shades(COUNT)
    with pytest.raises(RuntimeError, match="killed"):
        make(store_of(tmp_path, images), images, Colour(stop=6))  # four batches a part
    store = store_of(tmp_path, images)
    assert not store.whole and store.missing() == [1, 2]
    images.source.reads.clear()  # type: ignore[attr-defined]
    make(store, images)
    assert min(images.source.reads) == 512  # type: ignore[attr-defined]
    np.testing.assert_allclose(store.open(), expected(COUNT), atol=1e-3)


def test_extract__what_is_whole_is_not_made_again(tmp_path: Path) -> None:
    images = shades(30)
    make(store_of(tmp_path, images), images)
    make(store_of(tmp_path, images), images, Colour(stop=0))
    other_name = store_of(tmp_path, images, backbone="another name", name="of the same")
    assert other_name.whole


@pytest.mark.parametrize("left", [0, 20, -50])
def test_extract__a_damaged_part_is_made_anew(tmp_path: Path, left: int) -> None:
    images = shades(COUNT)
    with pytest.raises(RuntimeError, match="killed"):
        make(store_of(tmp_path, images), images, Colour(stop=8))
    store = store_of(tmp_path, images)
    assert store.missing() == [2]
    store.part(0).write_bytes(store.part(0).read_bytes()[:left])
    assert store.missing() == [0, 2]
    make(store, images)
    np.testing.assert_allclose(store.open(), expected(COUNT), atol=1e-3)


@pytest.mark.parametrize("left", [0, 50])
@pytest.mark.parametrize("damage", ["features.npy", "record.json"])
def test_extract__a_damaged_folder_is_made_anew(tmp_path: Path, damage: str, left: int) -> None:
    images = shades(30)
    store = store_of(tmp_path, images)
    make(store, images)
    file = store.folder / damage
    file.write_bytes(file.read_bytes()[:left])
    assert not store.whole
    make(store, images)
    np.testing.assert_allclose(store.open(), expected(30), atol=1e-3)


def test_extract__parts_that_another_run_has_just_joined(tmp_path: Path) -> None:
    images = shades(30)
    store = store_of(tmp_path, images)
    make(store, images)
    store.write(0, expected(30))
    store.finish()
    assert store.whole and not store.part(0).exists()


def others() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "weights", {"identity": "5678"}
    yield "size", {"transform": Transform(8, TRANSFORM.mean, TRANSFORM.std)}
    yield "colours", {"transform": Transform(4, (0.5, 0.5, 0.5), TRANSFORM.std)}
    yield "precision", {"transform": Transform(4, TRANSFORM.mean, TRANSFORM.std, "bf16")}


@pytest.mark.parametrize(("what", "more"), others())
def test_stored__what_changes_features_has_another_folder(tmp_path: Path, what: str, more: dict[str, Any]) -> None:
    images = shades(30)
    make(store_of(tmp_path, images), images)
    assert not store_of(tmp_path, images, **more).whole


def test_stored__by_the_images_and_not_their_labels(tmp_path: Path) -> None:
    images = shades(30)
    make(store_of(tmp_path, images), images)
    assert store_of(tmp_path, shades(30, classes=3)).whole
    assert not store_of(tmp_path, shades(31)).whole


def test_identity__of_weights_and_of_what_no_tensor_shows() -> None:
    import timm

    def vit(heads: int = 2) -> nn.Module:
        torch.manual_seed(0)
        return timm.create_model("test_vit", num_classes=0, depth=1, num_heads=heads)

    one = vit()
    known = identity(one)
    assert identity(vit()) == known == identity(one.eval()) and identity(vit(heads=4)) != known
    with torch.no_grad():
        next(iter(one.parameters())).view(-1)[0] += 1e-3
    assert identity(one) != known
    assert identity(nn.BatchNorm2d(2, eps=1e-5)) != identity(nn.BatchNorm2d(2, eps=1e-3))


def test_extract__two_ranks_share_the_parts(two_ranks, tmp_path: Path) -> None:
    def work(rank: int) -> None:
        dist.init_process_group("gloo")
        images = shades(COUNT)
        make(store_of(tmp_path, images), images)
        reads = images.source.reads  # type: ignore[attr-defined]
        assert set(np.array(reads) // 512) == ({0, 2} if rank == 0 else {1})

    two_ranks(work)
    store = store_of(tmp_path, shades(COUNT))
    assert store.whole
    np.testing.assert_allclose(store.open(), expected(COUNT), atol=1e-3)


def test_extract__an_unreadable_image_of_one_rank_ends_both(two_ranks, tmp_path: Path) -> None:
    def work(rank: int) -> None:
        dist.init_process_group("gloo")
        images = shades(COUNT, bad=600)
        with pytest.raises(
            ValueError, match=r"evaluation image shades 600 cannot be used \(the disk is on fire\); repair"
        ):
            make(store_of(tmp_path, images), images)

    two_ranks(work)
    assert store_of(tmp_path, shades(COUNT)).missing() == [1]  # the others are kept
