import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.image_source import ImageSource, JoinedSources
from datamodules.rows import read_rows


class Greys(ImageSource):
    """Pixels without a file: image i of n is i grey."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def read(self, row: int) -> np.ndarray:
        return np.full((8, 8, 3), row, np.uint8)

    def describe(self, row: int) -> str:
        return f"grey {row}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
    return tmp_path


def test_image_rows__are_a_source_of_bytes(folder: Path) -> None:
    rows = pickle.loads(pickle.dumps(read_rows(folder)))
    assert len(rows) == 3 and rows.read(1) == (folder / "1.png").read_bytes()
    assert rows.describe(2) == str(folder / "2.png") and rows.keys().to_pylist() == ["0.png", "1.png", "2.png"]


def test_joined_sources__rows_are_those_of_the_parts(folder: Path) -> None:
    joined = JoinedSources([Greys(4), read_rows(folder), Greys(2)], [None, True, None])
    assert len(joined) == 9 and joined.part_of_rows().tolist() == [0] * 4 + [1] * 3 + [2] * 2
    assert joined.read(5) == (folder / "1.png").read_bytes() and joined.describe(8) == "grey 1"
    assert [joined.read(row)[0, 0, 0] for row in (0, 3, 7)] == [0, 3, 0]
    assert joined.synthetic().tolist() == [False] * 4 + [True] * 3 + [False] * 2
    assert joined.kinds().tolist() == [0] * 4 + [3] * 3 + [4] * 2
    assert joined.keys().to_pylist()[3:5] == ["0/00000003", "1/0.png"] and len(set(joined.keys().to_pylist())) == 9


def test_fingerprint__tells_other_images_and_another_order(folder: Path) -> None:
    assert Greys(4).fingerprint() == Greys(4).fingerprint() != Greys(5).fingerprint()
    rows = read_rows(folder)
    one, other = JoinedSources([rows, Greys(4)]), JoinedSources([Greys(4), rows])
    assert one.fingerprint() != other.fingerprint() and JoinedSources([rows]).fingerprint() == rows.fingerprint()
