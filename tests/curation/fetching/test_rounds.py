import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.fetching.rounds import begin_round, check_settings, read_addresses, read_rounds
from curation.searching.metadata import Columns

SETTINGS = {"image_size": 512, "samples_per_shard": 2}


def save(path: Path, *urls: str | None, **columns: list[str]) -> Path:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"url": pa.array(urls, pa.string()), **columns}), path)
    return path


def test_read_addresses__every_web_address_once_in_an_order_that_is_not_the_hosts(tmp_path: Path) -> None:
    urls = [f"http://{host}.org/{number}" for host in "abcd" for number in range(10)]
    save(tmp_path / "t" / "1.parquet", *urls, *urls, "ftp://x/y", None)
    save(tmp_path / "t" / "2.parquet", " http://a.org/0 ", "https://e.org/0")
    table, dropped = read_addresses(tmp_path / "t", Columns())
    assert dropped == 2 and sorted(table["url"].to_pylist()) == [*urls, "https://e.org/0"]
    hosts = [url.split("/")[2] for url in table["url"].to_pylist()]
    assert sum(one == other for one, other in zip(hosts, hosts[1:], strict=False)) < 20
    assert table.equals(read_addresses(tmp_path / "t", Columns())[0])


def test_read_addresses__keeps_caption_and_licence(tmp_path: Path) -> None:
    path = save(tmp_path / "t.parquet", "http://a", TEXT=["a cat"], license=["CC0"], uid=["7"])
    row = read_addresses(path, Columns())[0].to_pylist()[0]
    assert row == {"url": "http://a", "caption": "a cat", "licence": "CC0", "id": "7"}


def test_read_addresses__names_the_key(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="curation.fetch.table: .*nowhere does not exist"):
        read_addresses(tmp_path / "nowhere", Columns())
    (tmp_path / "page.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match="curation.fetch.table: .*page.parquet is no Parquet table"):
        read_addresses(tmp_path / "page.parquet", Columns())


def test_begin_round__takes_what_no_round_has(tmp_path: Path) -> None:
    table, _ = read_addresses(save(tmp_path / "a.parquet", "http://a", "http://b", "http://c"), Columns())
    first = begin_round(tmp_path / "f", table, SETTINGS)
    assert first is not None and first.count == 3 and first.missing() == ["00000", "00001"]
    assert begin_round(tmp_path / "f", table, SETTINGS) is None
    more, _ = read_addresses(save(tmp_path / "b.parquet", "http://b", "http://d"), Columns())
    second = begin_round(tmp_path / "f", more, {**SETTINGS, "samples_per_shard": 5})
    assert second is not None and pq.read_table(second.urls)["url"].to_pylist() == ["http://d"]
    assert [(r.urls.name, r.folder.name) for r in read_rounds(tmp_path / "f")] == [
        ("urls-000.parquet", "round-000"), ("urls-001.parquet", "round-001"),
    ]  # fmt: skip


def test_round__a_shard_is_finished_by_its_statistics(tmp_path: Path) -> None:
    table, _ = read_addresses(save(tmp_path / "a.parquet", "http://a", "http://b", "http://c"), Columns())
    found = begin_round(tmp_path / "f", table, SETTINGS)
    assert found is not None
    found.folder.mkdir()
    (found.folder / "00000.tar").touch()
    stats = {"count": 2, "successes": 1, "failed_to_download": 1, "failed_to_resize": 0,
             "status_dict": {"success": 1, "HTTP Error 404: Not Found": 1}}  # fmt: skip
    (found.folder / "00001_stats.json").write_text(json.dumps(stats))
    assert found.missing() == ["00000"]
    assert found.statistics()["successes"] == 1 and found.statistics()["reason:HTTP Error 404: Not Found"] == 1


def test_check_settings__images_of_another_size_are_not_mixed(tmp_path: Path) -> None:
    table, _ = read_addresses(save(tmp_path / "a.parquet", "http://a"), Columns())
    begin_round(tmp_path / "f", table, SETTINGS)
    check_settings(read_rounds(tmp_path / "f"), {**SETTINGS, "samples_per_shard": 9, "resize_mode": "no"})
    with pytest.raises(ValueError, match="curation.fetch.image_size is 256, but the images in .* fetched with 512"):
        check_settings(read_rounds(tmp_path / "f"), {**SETTINGS, "image_size": 256})


def test_begin_round__after_one_that_was_taken_back(tmp_path: Path) -> None:
    both, _ = read_addresses(save(tmp_path / "a.parquet", "http://a", "http://b"), Columns())
    first = begin_round(tmp_path / "f", both.slice(0, 1), SETTINGS)
    second = begin_round(tmp_path / "f", both, SETTINGS)
    assert first is not None and second is not None
    first.remove()
    third = begin_round(tmp_path / "f", both, SETTINGS)
    assert third is not None and third.urls != second.urls
    urls = [pq.read_table(found.urls)["url"].to_pylist() for found in read_rounds(tmp_path / "f")]
    assert sorted(sum(urls, [])) == ["http://a", "http://b"]
