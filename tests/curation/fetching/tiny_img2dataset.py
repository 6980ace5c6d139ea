"""A downloader with img2dataset's command line and files, in a hundred lines: for tests where that is not installed.

Shards one after the other, a thread per address; no resizing. It reports its guard's refusals as img2dataset does.
"""

import argparse
import concurrent.futures
import hashlib
import io
import json
import math
import tarfile
import urllib.request
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in (
        "url_list", "output_folder", "input_format", "url_col", "caption_col", "output_format", "encode_format",
        "compute_hash", "incremental_mode", "enable_wandb", "resize_mode", "resize_only_if_bigger", "user_agent_token",
    ):  # fmt: skip
        parser.add_argument(f"--{name}", required=True)
    for name in ("save_additional_columns", "disallowed_header_directives"):
        parser.add_argument(f"--{name}", type=json.loads)
    for name in ("image_size", "number_sample_per_shard", "timeout", "retries", "processes_count", "thread_count"):
        parser.add_argument(f"--{name}", type=int)
    return parser.parse_args()


def download(url: str, options: argparse.Namespace) -> tuple[bytes | None, str, str | None]:
    """(image, status, reason)"""
    agent = {"User-Agent": f"Mozilla/5.0 (compatible; {options.user_agent_token}; +tests)"}
    for _ in range(options.retries + 1):
        try:
            request = urllib.request.Request(url, headers=agent)
            with urllib.request.urlopen(request, timeout=options.timeout) as response:
                said = response.headers.get("X-Robots-Tag", "")
                if any(word.strip() in options.disallowed_header_directives for word in said.split(",")):
                    return None, "failed_to_download", "Use of image disallowed by X-Robots-Tag directive"
                data = response.read()
            Image.open(io.BytesIO(data)).verify()
            return data, "success", None
        except OSError as error:
            status = "failed_to_resize" if type(error).__name__ == "UnidentifiedImageError" else "failed_to_download"
            reason = str(error)
    return None, status, reason


def write_shard(number: int, table: pa.Table, options: argparse.Namespace) -> None:
    place = Path(options.output_folder) / f"{number:05d}"
    digits = math.ceil(math.log10(options.number_sample_per_shard))
    rows = table.to_pylist()
    with concurrent.futures.ThreadPoolExecutor(options.thread_count) as pool:
        answers = list(pool.map(lambda row: download(row["url"], options), rows))
    with tarfile.open(f"{place}.tar", "w") as tar:
        for position, (row, (data, status, reason)) in enumerate(zip(rows, answers, strict=True)):
            key = f"{number:05d}{position:0{digits}d}"
            row |= {"key": key, "status": status, "error_message": reason, "sha256": None}
            if data is None:
                continue
            row["sha256"] = hashlib.sha256(data).hexdigest()
            for ending, part in (
                ("jpg", data),
                ("txt", (row["caption"] or "").encode()),
                ("json", json.dumps(row).encode()),
            ):
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(part)
                tar.addfile(info, io.BytesIO(part))
    pq.write_table(pa.Table.from_pylist(rows), f"{place}.parquet")
    statuses = [status for _, status, _ in answers]
    reasons = [reason or "success" for _, _, reason in answers]
    stats = {
        "count": len(rows), "successes": statuses.count("success"),
        "failed_to_download": statuses.count("failed_to_download"),
        "failed_to_resize": statuses.count("failed_to_resize"),
        "status_dict": {reason: reasons.count(reason) for reason in set(reasons)},
    }  # fmt: skip
    Path(f"{place}_stats.json").write_text(json.dumps(stats))


def main() -> None:
    options = read_arguments()
    columns = [*options.save_additional_columns, options.caption_col, options.url_col]
    table = pq.read_table(options.url_list, columns=columns)
    for number, first in enumerate(range(0, table.num_rows, options.number_sample_per_shard)):
        if not (Path(options.output_folder) / f"{number:05d}_stats.json").exists():
            write_shard(number, table.slice(first, options.number_sample_per_shard), options)


if __name__ == "__main__":
    main()
