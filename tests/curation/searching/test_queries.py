from pathlib import Path

import numpy as np
import pytest
import torch

from curation.encoders import ImageTextEncoder, embed_words
from curation.searching.queries import check_queries, embed_queries, seed_folders
from datamodules.decoding import ImageLimits
from tests.tiny import picture, save_clip

BANK = ["red squares", "blue circles"]
KEY = "curation.retrieve"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ImageTextEncoder:
    folder = save_clip(tmp_path_factory.mktemp("models") / "clip", no_branch=False)
    return ImageTextEncoder.load(f"local-dir:{folder}", None)


def save_pictures(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        picture(number).save(folder / f"{number}.png")
    return folder


def test_embed_queries__pictures_stand_in_for_the_name(encoder: ImageTextEncoder, tmp_path: Path) -> None:
    folder = save_pictures(tmp_path / "Red Square", 2)  # another spelling of the concept
    (folder / "broken.jpg").write_bytes(b"no picture")
    queries, pictured = embed_queries(encoder, BANK, ["{}", "a photo of {}"], str(tmp_path), ImageLimits(), KEY)
    pixels = [encoder.prepare(np.asarray(picture(number).convert("RGB"))) for number in range(2)]
    with torch.inference_mode():
        mean = encoder.embed_images(torch.from_numpy(np.stack(pixels))).mean(dim=0).numpy()
    assert pictured == 1
    np.testing.assert_allclose(queries[0], mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_array_equal(queries[1], embed_words(encoder, BANK, ["{}", "a photo of {}"])[1])


def test_embed_queries__pictures_that_cannot_be_decoded_are_named(encoder: ImageTextEncoder, tmp_path: Path) -> None:
    (tmp_path / "red squares").mkdir()
    (tmp_path / "red squares" / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"^curation\.retrieve\.seeds: none of the 1 pictures of 'red squares'"):
        embed_queries(encoder, BANK, ["{}"], str(tmp_path), ImageLimits(), KEY)


def test_seed_folders__of_no_concept_are_named(tmp_path: Path) -> None:
    save_pictures(tmp_path / "tractors", 1)
    with pytest.raises(ValueError, match=r"^curation\.search\.seeds: .* no concept of the bank: tractors"):
        seed_folders(tmp_path, BANK, "curation.search.seeds")


@pytest.mark.parametrize("templates", [[], ["a photo"], ["{}", "{} and {}"]])
def test_check_queries__a_template_has_one_place(templates: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^curation\.retrieve\.templates: "):
        check_queries(templates, None, KEY)


def test_embed_queries__other_braces_of_a_template_are_text(encoder: ImageTextEncoder) -> None:
    templates = ["a {} in {style} }"]
    check_queries(templates, None, KEY)
    queries, _ = embed_queries(encoder, BANK, templates, None, ImageLimits(), KEY)
    words = ["a red squares in {style} }", "a blue circles in {style} }"]
    np.testing.assert_array_equal(queries, embed_words(encoder, words, ["{}"]))


def test_check_queries__seeds_are_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^curation\.retrieve\.seeds: .*nowhere is no folder"):
        check_queries(["{}"], str(tmp_path / "nowhere"), KEY)
