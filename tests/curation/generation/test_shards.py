import hashlib
import io
import json
import resource
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from curation.generation.shards import (
    FAILED,
    SUCCESS,
    Sample,
    is_whole,
    read_made,
    remove_leftovers,
    shard_numbers,
    write_shard,
)
from datamodules.indexing import index_pool

RECIPE = {"steps": 2}


def jpeg(side: int = 32) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (200, 30, 10)).save(buffer, "JPEG")
    return buffer.getvalue()


def sample(key: str, failed: bool = False) -> Sample:
    columns = {
        "key": key, "status": FAILED if failed else SUCCESS, "error_message": "it is black" if failed else None,
        "caption": "一条 \"鱼\" / fish", "concept": "“fish” / 鱼", "model": "m", "revision": "r",
        "seed": 2**62, "number": 3, "unsafe": failed, "width": 32, "height": 32,
    }  # fmt: skip
    return Sample(columns, None if failed else jpeg())


def test_write_shard__is_read_by_the_index_as_synthetic_images(tmp_path: Path) -> None:
    write_shard(tmp_path, 7, [sample("b"), sample("a"), sample("c", failed=True)], RECIPE)
    table = index_pool(tmp_path, "synthetic", "synthetic")
    assert table["key"].to_pylist() == ["a", "b", "c"]
    row = table.to_pylist()[0]
    assert (row["made_for"], row["caption"]) == ("“fish” / 鱼", '一条 "鱼" / fish')
    assert (row["model"], row["revision"], row["seed"], row["unsafe"]) == ("m", "r", 2**62, False)
    data = (tmp_path / row["shard"]).read_bytes()
    assert data[row["offset"] : row["offset"] + row["size"]] == jpeg()
    lost = table.to_pylist()[2]
    assert (lost["size"], lost["status"], lost["reason"]) == (None, "failed_to_generate", "it is black")


def test_write_shard__the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_shard(tmp_path / name, 0, [sample("b"), sample("a")], RECIPE)
    for name in ("00000.tar", "00000.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    with tarfile.open(tmp_path / "one" / "00000.tar") as tar:
        assert tar.getnames() == [f"{key}.{ending}" for key in "ba" for ending in ("jpg", "txt", "json")]
        assert {member.mtime for member in tar.getmembers()} == {0}
        about = json.loads(tar.extractfile("a.json").read())
    assert about["steps"] == 2 and about["seed"] == 2**62 and about["caption"] == '一条 "鱼" / fish'


def test_write_shard__a_full_disk_leaves_no_half_shard_and_is_told_with_the_folder(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match=f"^{tmp_path} has no room for 00000.tar .* run the same command again"):
            write_shard(tmp_path, 0, [sample(f"{number:03d}") for number in range(50)], RECIPE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_write_shard__no_room_for_the_table_alone(tmp_path: Path) -> None:
    rows = [sample(hashlib.sha256(str(number).encode()).hexdigest(), failed=True) for number in range(2000)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # of the tar without a member there is enough
    try:
        with pytest.raises(OSError, match=f"^{tmp_path} has no room for 00000.parquet"):
            write_shard(tmp_path, 0, rows, RECIPE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_remove_leftovers__only_whole_shards_stay(tmp_path: Path) -> None:
    for number in (0, 3, 12, 100000):
        write_shard(tmp_path, number, [sample(f"{number}")], RECIPE)
    (tmp_path / "00003.parquet").unlink()  # a kill between the two files
    (tmp_path / "00012.tar").unlink()
    (tmp_path / ".00004.tar.77.tmp").write_bytes(b"half")
    for other in ("plan.parquet", "stage.json"):
        (tmp_path / other).write_bytes(b"kept")
    remove_leftovers(tmp_path)
    assert shard_numbers(tmp_path) == [0, 100000] and not is_whole(tmp_path, 3)
    kept = {"00000.tar", "00000.parquet", "100000.tar", "100000.parquet", "plan.parquet", "stage.json"}
    assert {path.name for path in tmp_path.iterdir()} == kept
    remove_leftovers(tmp_path / "not there")


def test_read_made__rows_of_all_whole_shards(tmp_path: Path) -> None:
    assert read_made(tmp_path).num_rows == 0
    write_shard(tmp_path, 1, [sample("a")], RECIPE)
    write_shard(tmp_path, 4, [sample("b", failed=True)], RECIPE)
    pq.write_table(pq.read_table(tmp_path / "00001.parquet"), tmp_path / "00009.parquet")  # its tar is gone
    made = read_made(tmp_path)
    assert made["key"].to_pylist() == ["a", "b"] and made["unsafe"].to_pylist() == [False, True]
