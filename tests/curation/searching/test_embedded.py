import zipfile
from pathlib import Path

import numpy as np
import pytest

from curation.searching import embedded
from curation.searching.embedded import embedded_parts, find_embedding_folder, find_tables
from tests.curation.searching.sources import save_embedding_folder, save_tables, unit

KEY = "curation.search.tables"


@pytest.mark.parametrize("compressed", [False, True])
def test_blocks__are_the_embeddings_of_all_parts(
    tmp_path: Path, compressed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "READ_BYTES", 5 * 16 * 2)
    vectors = unit(50)
    parts = embedded_parts(find_tables(save_tables(tmp_path, vectors, compressed=compressed), KEY), "l14_img", KEY)
    assert [part.metadata.first for part in parts] == [0, 17, 34] and {part.width for part in parts} == {16}
    blocks = [block for part in parts for block in part.blocks()]
    assert max(map(len, blocks)) == 5
    np.testing.assert_array_equal(np.concatenate(blocks), vectors.astype(np.float16))


def test_find_tables__parts_in_subfolders(tmp_path: Path) -> None:
    save_tables(tmp_path / "part_1", unit(4), parts=1)
    save_tables(tmp_path / "part_0", unit(4), parts=1)
    assert [pair[1].parent.name for pair in find_tables(tmp_path, KEY)] == ["part_0", "part_1"]


def test_embedding_folder__is_mapped(tmp_path: Path) -> None:
    vectors = unit(30)
    pairs = find_embedding_folder(save_embedding_folder(tmp_path / "out", vectors), "img", KEY)
    parts = embedded_parts(pairs, None, KEY)
    blocks = [block for part in parts for block in part.blocks()]
    assert all(isinstance(block, np.memmap) for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), vectors.astype(np.float16))


@pytest.mark.parametrize(
    "ending, message", [(".npz", "has no .npz beside it"), (".parquet", "has no .parquet beside it")]
)
def test_find_tables__a_part_without_its_other_half(tmp_path: Path, ending: str, message: str) -> None:
    save_tables(tmp_path, unit(6))
    (tmp_path / f"00000001{ending}").unlink()
    with pytest.raises(FileNotFoundError, match=message):
        find_tables(tmp_path, KEY)


def test_embedded_parts__tells_what_does_not_match(tmp_path: Path) -> None:
    pairs = find_tables(save_tables(tmp_path, unit(6)), KEY)
    with pytest.raises(ValueError, match="no array 'l14_txt', but l14_img, b32_img; name one of these"):
        embedded_parts(pairs, "l14_txt", KEY)
    with pytest.raises(ValueError, match="2 embeddings, but 00000001.parquet 3 rows"):
        save_tables(tmp_path / "more", unit(9))
        embedded_parts([(pairs[0][0], tmp_path / "more" / "00000001.parquet")], "l14_img", KEY)
    pairs[2][0].write_bytes(pairs[2][0].read_bytes()[:300])
    with pytest.raises(ValueError, match=r"00000002.npz cannot be read .* it may be cut: get it anew"):
        embedded_parts(pairs, "l14_img", KEY)


def test_embedded_parts__a_cut_array(tmp_path: Path) -> None:
    pairs = find_embedding_folder(save_embedding_folder(tmp_path / "out", unit(30)), "img", KEY)
    pairs[1][0].write_bytes(pairs[1][0].read_bytes()[:-10])
    with pytest.raises(ValueError, match="its end is missing"):
        embedded_parts(pairs, None, KEY)


def test_blocks__damage_inside_a_part_is_told(tmp_path: Path) -> None:
    pairs = find_tables(save_tables(tmp_path, unit(60), parts=1), KEY)
    part = embedded_parts(pairs, "l14_img", KEY)[0]
    with zipfile.ZipFile(part.embeddings) as archive:
        place = archive.getinfo("l14_img.npy").header_offset + 400
    data = bytearray(part.embeddings.read_bytes())
    data[place] ^= 255
    part.embeddings.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"00000000.npz is damaged \(Bad CRC-32"):
        list(part.blocks())
