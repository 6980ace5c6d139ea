import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curation.miniature import weights_folder
from curation.miniature.drawing import PATTERNS, SIDE, altered, card, fabric, other, written
from curation.miniature.scenes import SHARD_SIZE, TEST, TRAIN, make_scenes
from datamodules.decoding import ImageLimits, RefusedImage, decode_rgb
from datamodules.indexing import index_pool

COUNT = 420


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    make_scenes(folder, seed=3, images=COUNT)
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    make_scenes(folder, seed=4, images=60)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pool_images(folder: Path) -> dict[str, bytes]:
    """Key -> the bytes of the image file."""
    images = {}
    for shard in sorted((folder / "pool").glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, ext = member.name.partition(".")
                if ext not in ("txt", "json"):
                    file = tar.extractfile(member)
                    assert file is not None
                    images[key] = file.read()
    return images


def test_make_scenes__same_seed_same_bytes(few: Path, tmp_path: Path) -> None:
    make_scenes(tmp_path / "again", seed=4, images=60)
    assert files(tmp_path / "again") == files(few)


def test_make_scenes__another_seed_gives_other_images(scenes: Path, few: Path) -> None:
    shared = set(pool_images(few).values()) & set(pool_images(scenes).values())
    assert len(shared) <= 5  # an empty file, a page and a few others that no draw goes into
    mine, theirs = (files(folder / "test") for folder in (scenes, few))
    assert set(mine) == set(theirs) and not set(mine.values()) & set(theirs.values())


def test_make_scenes__holds_every_kind_in_its_share(scenes: Path) -> None:
    truth = pq.read_table(scenes / "truth.parquet")
    kinds = truth["kind"].to_pylist()
    counts = {kind: kinds.count(kind) for kind in set(kinds)}
    assert set(counts) == {"photo", "duplicate", "ood", "ood_text", "text_only", "leak", "broken"}
    assert counts["photo"] == COUNT * 0.5 and counts["leak"] == round(COUNT * 0.03)
    assert counts["ood"] + counts["ood_text"] + counts["text_only"] == COUNT * 0.3
    inside = {kind for kind, domain in zip(kinds, truth["in_domain"].to_pylist(), strict=True) if domain}
    assert inside == {"photo", "duplicate", "leak"}
    groups = {kind: {row["group"] for row in truth.to_pylist() if row["kind"] == kind} for kind in counts}
    assert groups["duplicate"] < groups["photo"]  # every copy has its original


def test_make_scenes__pool_is_what_the_truth_says(scenes: Path) -> None:
    truth, index = pq.read_table(scenes / "truth.parquet"), index_pool(scenes / "pool")
    assert sorted(truth["key"].to_pylist()) == index["key"].to_pylist()
    assert len(list((scenes / "pool").glob("*.tar"))) == -(-truth.num_rows // SHARD_SIZE) == 2
    assert None not in index["caption"].to_pylist() and None not in index["url"].to_pylist()
    images, refused = pool_images(scenes), set()
    for key, kind in zip(truth["key"].to_pylist(), truth["kind"].to_pylist(), strict=True):
        try:
            decode_rgb(images[key], ImageLimits())
        except RefusedImage as error:
            assert kind == "broken"
            refused.add(error.reason)
        else:
            assert kind != "broken"
    assert refused >= {"empty", "not_an_image", "truncated", "too_small", "extreme_aspect", "too_large", "flat_colour"}


def test_make_scenes__leaks_are_copies_of_test_images(scenes: Path) -> None:
    tests = {path.read_bytes() for path in (scenes / "test").rglob("*.png")}
    assert tests == {path.read_bytes() for path in (scenes / "leak").glob("*.png")}
    truth, images = pq.read_table(scenes / "truth.parquet").to_pylist(), pool_images(scenes)
    tiny = {path.stem: small(Image.open(path)) for path in (scenes / "leak").glob("*.png")}
    nearest = [
        min(tiny, key=lambda name: np.abs(tiny[name] - small(Image.open(io.BytesIO(images[row["key"]])))).mean())
        == row["group"]
        for row in truth
        if row["kind"] == "leak"
    ]
    assert np.mean(nearest) > 0.8  # the altered copy is nearest to its own test image


def small(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize((8, 8), Image.Resampling.BOX), np.float32)


def test_make_scenes__labelled_sets_hold_every_pattern_as_often(scenes: Path) -> None:
    for name, count in (("train", TRAIN), ("test", TEST)):
        classes = [path.parent.name for path in (scenes / name).rglob("*.png")]
        assert {pattern: classes.count(pattern) for pattern in PATTERNS} == dict.fromkeys(PATTERNS, count // 10)


@pytest.mark.parametrize("name", PATTERNS)
def test_fabric__repeats_its_pattern_in_two_colours(name: str) -> None:
    scene = fabric(np.random.default_rng(0), name)
    assert scene.image.size == (SIDE, SIDE) and scene.image.mode == "RGB" and scene.caption == f"{name} fabric"
    others = [fabric(np.random.default_rng(0), other_name).image for other_name in PATTERNS if other_name != name]
    assert all(np.abs(np.asarray(scene.image, int) - np.asarray(image, int)).max() > 50 for image in others)


def test_fabric__of_an_unknown_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="'plaid' is none of striped, checked"):
        fabric(np.random.default_rng(0), "plaid")


def test_other__never_shows_a_fabric() -> None:
    captions = {other(np.random.default_rng(seed)).caption for seed in range(200)}
    assert not any(name in caption.split() for caption in captions for name in (*PATTERNS, "fabric"))
    assert {caption.split()[1] for caption in captions} == {"plain", "handwritten", "printed", "drawing"}


def test_written__leaves_a_white_band_with_black_on_it() -> None:
    base = Image.new("RGB", (SIDE, SIDE), (90, 120, 40))
    pixels = np.asarray(written(np.random.default_rng(0), base, "seven"))
    band = np.flatnonzero((pixels != (90, 120, 40)).any(axis=(1, 2)))
    assert 10 < len(band) < SIDE / 2 and np.array_equal(band, np.arange(band[0], band[-1] + 1))
    assert (pixels[band].max(axis=2) < 60).any() and (pixels[band] == 255).all(axis=2).mean() > 0.5


def test_altered__every_change_leaves_a_decodable_picture() -> None:
    rng = np.random.default_rng(0)
    original = fabric(rng, "wavy").image
    sizes = set()
    for _ in range(40):
        copy, quality = altered(rng, original)
        assert copy.mode == "RGB" and 30 <= quality <= 95 and min(copy.size) >= SIDE // 2
        sizes.add(copy.size)
    assert len(sizes) > 5


@pytest.mark.skipif(not (weights_folder() / "image-text").is_dir(), reason="the miniature models are not there")
def test_weights__tell_fabrics_from_other_scenes() -> None:
    from sklearn.metrics import roc_auc_score
    from torch import from_numpy, inference_mode

    from curation.encoders import ImageTextEncoder
    from curation.ood import ood_scores

    rng = np.random.default_rng(11)
    images = [fabric(rng, PATTERNS[row % 10]).image for row in range(80)] + [other(rng).image for _ in range(80)]
    encoder = ImageTextEncoder.load(str(weights_folder() / "image-text"))
    words = [f"a photo of a {name} fabric." for name in PATTERNS]
    with inference_mode():
        batch = from_numpy(np.stack([encoder.prepare(np.asarray(image)) for image in images]))
        scores = ood_scores(encoder.embed_images(batch), encoder.embed_texts(words), encoder.embed_no_texts(words))
    assert roc_auc_score([0] * 80 + [1] * 80, scores) > 0.9


@pytest.mark.skipif(not any(weights_folder().glob("copy-descriptor*")), reason="the miniature models are not there")
def test_weights__tell_copies_from_other_fabrics() -> None:
    from torch import from_numpy, inference_mode

    from curation.copy_descriptors import CopyDescriptor

    rng = np.random.default_rng(11)
    originals = [fabric(rng, PATTERNS[row % 10]).image for row in range(60)]
    copies = [altered(rng, image)[0] for image in originals]
    (path,) = weights_folder().glob("copy-descriptor*")
    descriptor = CopyDescriptor.load(str(path), 64)
    with inference_mode():
        first, second = (
            descriptor.embed_images(from_numpy(np.stack([descriptor.prepare(np.asarray(image)) for image in images])))
            for images in (originals, copies)
        )
    nearest = (second @ first.T).argmax(dim=1)
    assert (nearest.numpy() == np.arange(60)).mean() > 0.9


def test_card__is_a_word_on_one_colour() -> None:
    pixels = np.asarray(card(np.random.default_rng(1), "menu")).reshape(-1, 3)
    colours, counts = np.unique(pixels, axis=0, return_counts=True)
    assert counts.max() > 0.4 * len(pixels)
