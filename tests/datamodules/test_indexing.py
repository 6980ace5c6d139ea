import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from datamodules.decoding import decode_rgb
from datamodules.descriptions import INDEX_SCHEMA
from datamodules.indexing import index_pool, join_inputs, walk_files, warnings_of
from datamodules.store import ImageStore


def picture(seed: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def warnings(table: pa.Table) -> list[str]:
    return json.loads((table.schema.metadata or {}).get(b"warnings", b"[]"))


def keys(path: Path) -> list[str]:
    return index_pool(path)["key"].to_pylist()


def row(table: pa.Table, key: str) -> dict:
    return next(row for row in table.to_pylist() if row["key"] == key)


def test_index_pool__every_row_leads_to_its_bytes(tmp_path: Path) -> None:
    pictures = {name: picture(seed) for seed, name in enumerate(("a.png", "b/c.d.png", "x", "y"))}
    write_files(tmp_path, {name: data for name, data in pictures.items() if name.endswith("png")})
    write_tar(tmp_path / "deep" / "00000.tar", {"x.png": pictures["x"], "x.txt": b"a cat", "sub/y.png": pictures["y"]})
    table = index_pool(tmp_path, root="mine", source="synthetic")
    assert table.schema.equals(INDEX_SCHEMA)
    assert table["key"].to_pylist() == ["a.png", "b/c.d.png", "sub/y", "x"]
    assert set(table["root"].to_pylist()) == {"mine"} and set(table["source"].to_pylist()) == {"synthetic"}
    assert table["shard"].to_pylist() == ["a.png", "b/c.d.png", "deep/00000.tar", "deep/00000.tar"]
    assert table["caption"].to_pylist() == [None, None, None, "a cat"]
    assert set(table["status"].to_pylist()) == {"success"} and set(table["ext"].to_pylist()) == {"png"}
    store = ImageStore({"mine": tmp_path})
    found = [store.read(r["root"], r["shard"], r["offset"], r["size"]) for r in table.to_pylist()]
    assert found == [pictures[name] for name in ("a.png", "b/c.d.png", "y", "x")]
    assert decode_rgb(found[0]).shape == (40, 40, 3)


def test_index_pool__one_shard(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "one.tar", {"x.jpg": b"data"})
    write_files(tmp_path, {"beside.png": b"not of the shard"})
    table = index_pool(path)
    assert table.select(["key", "shard", "size"]).to_pylist() == [{"key": "x", "shard": "one.tar", "size": 4}]
    assert ImageStore({"pool": path}).read("pool", "one.tar", table["offset"][0].as_py(), 4) == b"data"


def test_index_pool__described_by_json_and_txt(tmp_path: Path) -> None:
    described = json.dumps({"caption": "of json", "URL": "http://u", "license": "CC0", "other": 3}).encode()
    members = {"a.jpg": b"1", "a.json": described, "a.txt": b" of txt\n", "b.jpg": b"2", "b.json": described}
    members |= {
        "c.jpg": b"3",
        "c.json": b"[1]",
        "d.jpg": b"4",
        "d.json": b"{",
        "e.jpg": b"5",
        "e.txt": b"\xff\xe9t\xe9",
    }
    for pool in (write_tar(tmp_path / "tar" / "0.tar", members).parent, write_files(tmp_path / "files", members)):
        table = index_pool(pool)
        assert table["caption"].to_pylist() == ["of txt", "of json", None, None, "\ufffd\ufffdt\ufffd"]
        assert table["url"].to_pylist() == ["http://u", "http://u", None, None, None]
        assert table["licence"].to_pylist() == ["CC0", "CC0", None, None, None]


def test_index_pool__several_parts_of_a_sample(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", {"7.mask.png": b"mask", "7.jpg": b"picture", "7.cls": b"3"})
    assert index_pool(path).select(["key", "ext", "size"]).to_pylist() == [{"key": "7", "ext": "jpg", "size": 7}]


def test_index_pool__names_with_several_dots(tmp_path: Path) -> None:
    members = {"IMG.1.jpg": b"one", "IMG.1.txt": b"first", "IMG.2.JPG": b"two", "IMG.2.json": b'{"caption": "second"}'}
    table = index_pool(write_tar(tmp_path / "0.tar", members))
    assert table["key"].to_pylist() == ["IMG.1", "IMG.2"]
    assert table["caption"].to_pylist() == ["first", "second"]
    assert table["ext"].to_pylist() == ["jpg", "jpg"]


def img2dataset(folder: Path, shard: str, rows: list[dict], members: dict[str, bytes]) -> Path:
    write_tar(folder / f"{shard}.tar", members)
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{shard}.parquet")
    return folder


def test_index_pool__img2dataset(tmp_path: Path) -> None:
    rows = [
        {"key": "3", "caption": "three", "url": "u3", "status": "failed_to_download", "error_message": "404"},
        {"key": "2", "caption": "two", "url": "u2", "status": "success", "error_message": None},
        {"key": "1", "caption": "one", "url": "u1", "status": "success", "error_message": None},
        {"key": "4", "caption": "four", "url": "u4", "status": "success", "error_message": None},
    ]
    members = {"1.jpg": b"1", "1.json": b'{"caption": "other"}', "2.jpg": b"22", "2.txt": b"of txt", "9.jpg": b"9"}
    table = index_pool(img2dataset(tmp_path, "00000", rows, members))
    assert table["key"].to_pylist() == ["1", "2", "3", "4", "9"]
    assert table["caption"].to_pylist() == ["one", "of txt", "three", "four", None]
    assert table["url"].to_pylist() == ["u1", "u2", "u3", "u4", None]
    assert table["size"].to_pylist() == [1, 2, None, None, 1]
    assert table["status"].to_pylist() == ["success", "success", "failed_to_download", "failed_missing", "success"]
    assert table["reason"].to_pylist()[2:4] == ["404", "the shard has no image of this key"]


def test_index_pool__parquet_that_is_none_or_another(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"a.jpg": b"1"})
    (tmp_path / "0.parquet").write_bytes(b"not parquet")
    write_tar(tmp_path / "1.tar", {"b.jpg": b"1"})
    pq.write_table(pa.table({"number": [1]}), tmp_path / "1.parquet")
    write_tar(tmp_path / "2.tar", {"c.jpg": b"1"})
    twice = pa.table([pa.array(["c"]), pa.array(["x"]), pa.array(["y"])], names=["key", "caption", "caption"])
    pq.write_table(twice, tmp_path / "2.parquet")
    table = index_pool(tmp_path)
    assert table["key"].to_pylist() == ["a", "b", "c"]
    told = warnings(table)
    assert told[0].startswith("0.parquet cannot be read") and all("1.parquet" not in sentence for sentence in told)


def test_index_pool__keys_shared_by_shards(tmp_path: Path) -> None:
    for shard in ("0.tar", "1.tar", "deep/0.tar"):
        write_tar(tmp_path / shard, {"a.jpg": shard.encode(), f"{len(shard)}.jpg": b""})
    write_tar(tmp_path / "empty.tar", {})
    assert keys(tmp_path) == ["0/5", "0/a", "1/5", "1/a", "deep/0/10", "deep/0/a"]


def test_index_pool__cut_shards_keep_their_whole_members(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", {"a.jpg": bytes(600), "b.jpg": bytes(3000)})
    os.truncate(path, 512 + 1024 + 512 + 700)
    table = index_pool(tmp_path)
    assert table["key"].to_pylist() == ["a"]
    assert warnings(table) == ["0.tar is cut off inside b.jpg; the members before that are used"]


def test_index_pool__links(tmp_path: Path) -> None:
    pool = write_files(tmp_path / "pool", {"a.jpg": b"a"})
    outside = write_files(tmp_path / "outside", {"b.jpg": b"b", "c.jpg": b"c"})
    (pool / "loop").symlink_to(pool)
    (pool / "up").symlink_to(tmp_path)
    (pool / "more").symlink_to(outside)
    (pool / "again").symlink_to(outside)
    (pool / "one.jpg").symlink_to(outside / "c.jpg")
    (pool / "gone.jpg").symlink_to(tmp_path / "nothing")
    (pool / "gone.tar").symlink_to(tmp_path / "nothing")
    table = index_pool(pool)
    assert table["key"].to_pylist() == ["a.jpg", "again/b.jpg", "again/c.jpg", "one.jpg"]
    assert sorted(sentence.split()[0] for sentence in warnings(table)) == ["gone.jpg", "gone.tar"]


def test_index_pool__pipes_do_not_hang(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.jpg": b"a"})
    os.mkfifo(tmp_path / "b.jpg")
    os.mkfifo(tmp_path / "c.tar")
    assert keys(tmp_path) == ["a.jpg"]


def test_index_pool__hidden_files_are_left_out(tmp_path: Path) -> None:
    files = {".a.jpg": b"", ".trash/b.jpg": b"", "c.jpg": b"", "c/._d.jpg": b""}
    write_files(tmp_path, files)
    write_tar(tmp_path / "0.tar", {"._x.jpg": b"", "y/.z.jpg": b"", "w.jpg": b""})
    assert keys(tmp_path) == ["c.jpg", "w"]


def test_index_pool__names_that_are_not_utf8(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.jpg": b""})
    with open(os.fsencode(tmp_path) + b"/gr\xfc\xdfe.jpg", "wb"):
        pass
    table = index_pool(tmp_path)
    assert table["key"].to_pylist() == ["a.jpg"]
    assert len(warnings(table)) == 1 and "not UTF-8" in warnings(table)[0]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no image"),
        ({"a.txt": b"", "b.parquet": b""}, "holds no image"),
        ({"0.tar": b"\x1f\x8b" + bytes(600)}, "compressed"),
    ],
)
def test_index_pool__nothing_to_index_is_an_error(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    pool = write_files(tmp_path, files)
    with pytest.raises(ValueError, match="pool: ") as error:
        index_pool(pool)
    assert message in str(error.value)


def test_index_pool__neither_folder_nor_tar(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.zip": b""})
    with pytest.raises(ValueError, match="pool: .*a.zip is a file but no .tar"):
        index_pool(tmp_path / "a.zip")


def test_index_pool__missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="pool: .*nothing does not exist"):
        index_pool(tmp_path / "nothing")


def test_index_pool__the_same_whatever_the_order_of_creation(tmp_path: Path) -> None:
    names = [f"{number:02d}/{number}.jpg" for number in range(30)]
    first = write_files(tmp_path / "first", dict.fromkeys(names, b"x"))
    second = write_files(tmp_path / "second", dict.fromkeys(reversed(names), b"x"))
    assert index_pool(first).equals(index_pool(second))


def test_walk_files__folder_by_folder_sorted(tmp_path: Path) -> None:
    write_files(tmp_path, dict.fromkeys(("b", "a/z", "a/b/c", "a.x/y", "c"), b""))
    assert list(walk_files(tmp_path)) == ["b", "c", "a/z", "a/b/c", "a.x/y"]


MADE = {"concept": "ramen", "model": "sd", "revision": "1.0", "seed": 7, "unsafe": False, "opt_out": "what?"}
PROVENANCE = ["made_for", "model", "revision", "seed", "unsafe", "opt_out"]


@pytest.mark.parametrize("described_by", ["json", "parquet"])
def test_index_pool__what_made_a_synthetic_image(tmp_path: Path, described_by: str) -> None:
    members = {"1.png": picture(1), "1.txt": b"a bowl of ramen", "2.png": picture(2)}
    if described_by == "json":
        members["1.json"] = json.dumps(MADE).encode()
    else:
        pq.write_table(
            pa.table({"key": ["1"], **{name: [value] for name, value in MADE.items()}}), tmp_path / "0.parquet"
        )
    write_tar(tmp_path / "0.tar", members)
    made = index_pool(tmp_path, "synthetic", "synthetic").select(PROVENANCE).to_pylist()
    assert list(made[0].values()) == ["ramen", "sd", "1.0", 7, False, None]  # an opt-out that is no flag says nothing
    assert set(made[1].values()) == {None}
    assert index_pool(tmp_path)["model"].null_count == 2  # a real image's column `model` may be a camera's


def test_index_pool__a_download_that_its_server_forbids_is_an_opt_out(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"1.png": picture(1)})
    said = [None, "Use of image disallowed by X-Robots-Tag directive", "HTTP Error 404: Not Found"]
    status = ["success", "failed_to_download", "failed_to_download"]
    pq.write_table(pa.table({"key": ["1", "2", "3"], "status": status, "error_message": said}), tmp_path / "0.parquet")
    assert index_pool(tmp_path)["opt_out"].to_pylist() == [None, True, None]


def test_index_pool__leaves_out_the_folder_to_skip(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": picture(1), "runs/mine/b.png": picture(2)})
    assert index_pool(tmp_path, skip=tmp_path / "runs" / "mine")["key"].to_pylist() == ["a.png"]


def test_index_pool__more_loose_images_than_are_held_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.indexing.ROWS_PER_TABLE", 2)
    names = ["a.png", "b.png", "c.png", "in/d.png", "in/e.png"]
    write_files(tmp_path, {name: picture(number) for number, name in enumerate(names)})
    assert index_pool(tmp_path)["shard"].to_pylist() == names


def test_join_inputs__prefixes_only_inputs_that_share_a_key(tmp_path: Path) -> None:
    for name, keys in {"one": "ab", "two": "bc", "three": "d"}.items():
        write_files(tmp_path / name, {f"{key}.png": picture(ord(key)) for key in keys})
    (tmp_path / "three" / "cut.tar").write_bytes(b"")
    joined = join_inputs({name: index_pool(tmp_path / name, name) for name in ("one", "two", "three")})
    assert joined["key"].to_pylist() == ["d.png", "one/a.png", "one/b.png", "two/b.png", "two/c.png"]
    assert joined["root"].to_pylist() == ["three", "one", "one", "two", "two"]
    assert "cut.tar is empty" in warnings_of(joined)[0]
