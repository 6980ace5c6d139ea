"""What an offline run of W&B holds, read from its file."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 32768  # of the LevelDB log, counted from the start of the file


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    place, whole = 7, b""
    while place + 7 <= len(data):
        rest = BLOCK - place % BLOCK
        if rest < 7:
            place += rest
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            record = Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def items(updates: Any) -> dict[str, Any]:
    """Key -> value of a record's updates."""
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in updates}


def everything(folder: Path) -> tuple[Any, dict[str, Any], dict[str, Any], dict[str, Any], list[Any]]:
    """(run, config, history, summary, artifacts) of the one offline run in a run's folder."""
    (path,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    config, history, summary, runs, artifacts = {}, {}, {}, [], []
    for record in records(path):
        if record.HasField("run"):
            runs.append(record.run)
            config |= items(record.run.config.update)
        if record.request.HasField("log_artifact"):
            artifacts.append(record.request.log_artifact.artifact)
        if record.HasField("artifact"):
            artifacts.append(record.artifact)
        config |= items(record.config.update)
        history |= items(record.history.item)
        summary |= items(record.summary.update)
    return runs[0], config, history, summary, artifacts
