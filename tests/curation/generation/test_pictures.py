from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curation.generation.pictures import SeedPictures

KEY = "curation.synthesis.image_to_image.folder"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in (("fish_chips/a.png", 40), ("fish_chips/deep/b.jpg", 90), ("Cod/c.png", 200)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((64, 96, 3), colour, np.uint8)
        pixels[:, 40:56, 1] = 255
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "Cod" / "d.jpg").write_bytes(b"no image")
    return tmp_path


def test_of_concepts__folders_are_named_like_concepts(folder: Path) -> None:
    said: list[str] = []
    found = SeedPictures(folder, KEY).of_concepts(["fish & chips", "cod", "eel"], said.append)
    assert [path for path, _ in found["fish & chips"]] == ["fish_chips/a.png", "fish_chips/deep/b.jpg"]
    assert sorted(found) == ["cod", "fish & chips"]
    assert said == ["synthesis  1 concepts have no folder of pictures, so no images are made of them: eel"]


def test_of_concepts__no_folder_of_any_concept(folder: Path) -> None:
    with pytest.raises(ValueError, match=f"^{KEY}: no folder .* the concepts are eel, ..., the folders .*fish_chips"):
        SeedPictures(folder, KEY).of_concepts(["eel"], print)


def test_load__fits_the_size_or_says_why_not(folder: Path) -> None:
    pictures = SeedPictures(folder, KEY)
    pixels = pictures.load("fish_chips/a.png", 32, 16)
    assert isinstance(pixels, np.ndarray) and pixels.shape == (32, 16, 3)
    assert pixels[:, 7:9, 1].min() > 200 > pixels[:, 0, 1].max()  # its middle
    assert "Cod/d.jpg cannot be used (not_an_image" in str(pictures.load("Cod/d.jpg", 32, 16))


def test_seed_pictures__names_the_key(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"^{KEY}: .*none is no folder"):
        SeedPictures(tmp_path / "none", KEY)
    with pytest.raises(ValueError, match=f"^{KEY}: .*holds no"):
        SeedPictures(tmp_path, KEY)
