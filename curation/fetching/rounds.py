"""What was fetched, and what is still to fetch: tables of addresses and, beside each, a folder of shards."""

import json
import math
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.searching.hits import is_web_address
from curation.searching.metadata import Columns, column_names
from curation.workspace import write_table

ADDRESSES = pa.schema([(name, pa.string()) for name in ("url", "caption", "licence", "id")])
KEY = "curation.fetch"


@dataclass(frozen=True)
class Round:
    """One call of the downloader: urls-NNN.parquet, and what it makes of it in round-NNN."""

    urls: Path

    @property
    def folder(self) -> Path:
        """Shards NNNNN.tar with NNNNN.parquet and NNNNN_stats.json."""
        return self.urls.with_name(self.urls.stem.replace("urls", "round"))

    @property
    def log(self) -> Path:
        """What the downloader says."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the images, as it was when the round began."""
        return dict(json.loads((pq.read_schema(self.urls).metadata or {}).get(b"settings", b"{}")))

    @property
    def count(self) -> int:
        """Number of addresses."""
        return int(pq.read_metadata(self.urls).num_rows)

    def missing(self) -> list[str]:
        """Names of the shards that are not finished: the downloader writes their statistics last."""
        shards = math.ceil(self.count / self.settings["samples_per_shard"])
        names = [f"{number:05d}" for number in range(shards)]
        return [name for name in names if not (self.folder / f"{name}_stats.json").is_file()]

    def statistics(self) -> Counter[str]:
        """Counts of count, successes, failed_to_download, failed_to_resize; of every reason as reason:TEXT."""
        total: Counter[str] = Counter()
        for path in self.folder.glob("*_stats.json"):
            try:
                found = json.loads(path.read_text())
            except ValueError:
                continue  # being written
            names = ("count", "successes", "failed_to_download", "failed_to_resize")
            total.update({name: int(found.get(name, 0)) for name in names})
            total.update({f"reason:{text}": int(n) for text, n in found.get("status_dict", {}).items()})
        return total

    def remove(self) -> None:
        """Deletes what was fetched and the list of addresses, which are new again."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.urls.unlink(missing_ok=True)


def read_rounds(folder: Path) -> list[Round]:
    """The rounds of a folder in order."""
    return [Round(path) for path in sorted(folder.glob("urls-*.parquet"))]


def read_addresses(path: Path, columns: Columns) -> tuple[pa.Table, int]:
    """(ADDRESSES with every http(s) address once, in an order that spreads each host's; rows that have none).

    path: a Parquet file, or a folder of them. Raises FileNotFoundError or ValueError naming the yaml key.
    """
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise FileNotFoundError(f"{KEY}.table: {path} does not exist or holds no .parquet; give a table of addresses")
    tables = [ADDRESSES.empty_table()]
    for file in files:
        try:
            wanted = columns.resolve(column_names(file), file, f"{KEY}.columns")
            found = pq.read_table(file, columns=list(wanted.values()))
        except pa.ArrowInvalid as error:
            raise ValueError(f"{KEY}.table: {file} is no Parquet table ({str(error).splitlines()[0]})") from None
        texts = {ours: found[theirs].cast(pa.string()) for ours, theirs in wanted.items()}
        nothing = pa.nulls(found.num_rows, pa.string())
        tables.append(pa.table([texts.get(name, nothing) for name in ADDRESSES.names], schema=ADDRESSES))
    table = pa.concat_tables(tables)
    table = table.set_column(0, "url", pc.utf8_trim_whitespace(table["url"]))
    web = table.filter(is_web_address(table["url"])).combine_chunks()
    first = pa.table({"url": web["url"], "row": np.arange(web.num_rows)}).group_by("url").aggregate([("row", "min")])
    web = web.take(first["row_min"]).sort_by("url")
    # Neighbours in the alphabet are on one host, which should not get all requests at a time.
    order = np.random.default_rng(0).permutation(web.num_rows)
    return web.take(pa.array(order)).combine_chunks(), table.num_rows - int(
        pc.sum(is_web_address(table["url"])).as_py() or 0
    )


def begin_round(folder: Path, addresses: pa.Table, settings: dict[str, Any]) -> Round | None:
    """Writes the addresses that no round has to a new one; None where every address has its round."""
    rounds = read_rounds(folder)
    for earlier in rounds:
        known = pq.read_table(earlier.urls, columns=["url"])["url"].combine_chunks()
        addresses = addresses.filter(pc.invert(pc.is_in(addresses["url"], value_set=known)))
    if not addresses.num_rows:
        return None
    number = 1 + max((int(earlier.urls.stem.removeprefix("urls-")) for earlier in rounds), default=-1)
    path = folder / f"urls-{number:03d}.parquet"
    write_table(path, addresses.replace_schema_metadata({"settings": json.dumps(settings)}))
    return Round(path)


def check_settings(rounds: list[Round], settings: dict[str, Any]) -> None:
    """Raises ValueError where earlier rounds fetched images that these settings would have made otherwise."""
    for earlier in rounds:
        for name, value in settings.items():
            old = earlier.settings.get(name, value)
            if name != "samples_per_shard" and old != value:
                raise ValueError(
                    f"{KEY}.{name} is {value!r}, but the images in {earlier.folder} were fetched with {old!r}; set it "
                    f"back, or delete {earlier.urls.parent} to fetch all of them again"
                )
