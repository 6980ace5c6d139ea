import os
from pathlib import Path

import numpy as np
import pytest

from curation.embeddings import STRIP, Embeddings, StoredPart

STORED = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float16)
UNIT = STORED.astype(np.float32) / np.linalg.norm(STORED.astype(np.float32), axis=1, keepdims=True)


def parts() -> list[np.ndarray]:
    return [STORED[:7], np.empty((0, 6), np.float16), STORED[7:8], STORED[8:]]


@pytest.mark.parametrize(
    "key", [slice(5, 9), slice(None), slice(0, 0), np.array([49, 0, 7, 7]), np.arange(50) % 3 == 0]
)
def test_getitem__rows_of_any_part_in_the_order_asked(key: slice | np.ndarray) -> None:
    found = Embeddings(parts())[key]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, UNIT[key], atol=1e-6)


def test_getitem__the_same_bits_in_every_block() -> None:
    whole, embeddings = np.asarray(Embeddings([STORED])), Embeddings(parts())
    assert all(np.array_equal(embeddings[row : row + 1][0], whole[row]) for row in range(50))


def test_getitem__a_row_that_holds_infinity_is_nan() -> None:
    damaged = STORED.copy()
    damaged[3, 1] = np.inf
    assert np.isnan(Embeddings([damaged])[:]).any(axis=1).tolist() == [row == 3 for row in range(50)]


def test_take__some_rows_still_on_disk() -> None:
    kept = Embeddings(parts()).take(np.arange(50) >= 40).take(np.array([9, 0]))
    assert kept.shape == (2, 6) and len(kept) == 2
    np.testing.assert_allclose(kept[:], UNIT[[49, 40]], atol=1e-6)


def test_array__longer_than_a_strip() -> None:
    many = np.tile(STORED, (STRIP // 50 + 1, 1))
    np.testing.assert_array_equal(np.asarray(Embeddings([many]))[-50:], Embeddings([STORED])[:])


def test_no_rows__keep_their_width() -> None:
    assert Embeddings([np.empty((0, 6), np.float16)])[:].shape == (0, 6)


def test_stored_part__hundreds_of_files_are_not_held_open(tmp_path: Path) -> None:
    for number in range(300):
        np.save(tmp_path / f"{number:03d}.npy", STORED[number % 50 : number % 50 + 1])
    before = len(os.listdir("/proc/self/fd"))
    embeddings = Embeddings([StoredPart(path) for path in sorted(tmp_path.iterdir())])
    np.testing.assert_allclose(embeddings[:], np.tile(UNIT, (6, 1)), atol=1e-6)
    assert len(os.listdir("/proc/self/fd")) - before < 100


def test_stored_part__written_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for value in (1.0, 2.0):
        np.save(tmp_path / "new.npy", np.full((1, 2), value, np.float16))
        os.replace(tmp_path / "new.npy", path)
        assert StoredPart(path)[:].tolist() == [[value, value]]
