"""What proves that a data set was screened: the certificate, and the checksums of the test images. Imports no torch."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.workspace import Workspace, read_parts, write_table
from datamodules.files import read_json, write_json

CERTIFICATE, SCREENED = "certificate.json", "screened.parquet"
THRESHOLDS = tuple(round(0.3 + 0.05 * step, 2) for step in range(13))
CLOSEST = 20  # pairs that are listed, removed and kept each


def write_certificate(folder: Path, tests: Workspace, paths: dict[str, str], settings: dict[str, Any]) -> None:
    """Writes screened.parquet and certificate.json of a leakage stage whose parts are in `folder`.

    tests: the workspace of the test images, whose roots are the names of the sets; paths: of each, as the yaml gives
    it; settings: what else the certificate says of how it came about, such as threshold and descriptor.
    """
    images = tests.columns("ingest", ["sha256", "readable"])
    images = pa.table({"test_set": tests.index["root"], "key": tests.index["key"],
                       "sha256": images["sha256"], "readable": images["readable"]})  # fmt: skip
    write_table(folder / SCREENED, images)
    columns = read_parts(folder)
    leaks = columns["leaks"].to_numpy(zero_copy_only=False).astype(bool)
    decides = "leak_score_from" if "leak_score_from" in columns.column_names else "leaks_from"
    removed = Counter(name.partition("/")[0] for name in columns[decides].filter(pa.array(leaks)).to_pylist())
    similarity = columns["leak_similarity"].to_numpy()
    sets = [{**_set(name, path, images), "removed": removed[name]} for name, path in paths.items()]
    marks = sorted({*THRESHOLDS, settings["threshold"]})
    write_json(folder / CERTIFICATE, {
        **settings, "tests": sets, "images": len(leaks), "removed": int(leaks.sum()),
        "removals": [[mark, int((similarity > np.float32(mark)).sum())] for mark in marks],
        "closest": {name: _closest(columns, similarity, mask) for name, mask in (("removed", leaks), ("kept", ~leaks))},
    })  # fmt: skip


def _set(name: str, path: str, images: pa.Table) -> dict[str, Any]:
    own = images.filter(pc.equal(images["test_set"], name))
    return {"name": name, "path": path, "images": own.num_rows,
            "unreadable": own.num_rows - (pc.sum(own["readable"]).as_py() or 0),
            "sha256": _checksum(own["sha256"])}  # fmt: skip


def _closest(columns: pa.Table, similarity: np.ndarray, mask: np.ndarray) -> list[dict[str, Any]]:
    """The pairs of highest similarity among some rows, the most similar first, equal ones by row."""
    rows = np.flatnonzero(mask)
    names = [
        name for name in ("row", "key", "leaks_from", "leak_similarity", "leak_score") if name in columns.column_names
    ]
    top = rows[np.argsort(-similarity[rows], kind="stable")[:CLOSEST]]
    return columns.select(names).take(pa.array(top)).to_pylist()


def read_certificate(space: Workspace) -> dict[str, Any] | None:
    """certificate.json of a finished leakage stage that what is in the workspace still follows from, else None."""
    if space.current_record("leakage") is None:
        return None
    return read_json(space.stage_folder("leakage") / CERTIFICATE)


def screened_checksums(space: Workspace) -> set[str] | None:
    """SHA-256 of all images that the leakage stage looked at, None where it has not finished.

    Those that cannot be decoded are among them: no evaluation can use them.
    """
    path = space.stage_folder("leakage") / SCREENED
    if space.current_record("leakage") is None or not path.exists():
        return None
    return set(pq.read_table(path, columns=["sha256"])["sha256"].drop_null().to_pylist())


def checksum_of_images(manifest: Path) -> str:
    """SHA-256 of the sorted checksums of a manifest's images."""
    return _checksum(pq.read_table(manifest, columns=["sha256"])["sha256"])


def _checksum(images: pa.ChunkedArray) -> str:
    return hashlib.sha256("\n".join(sorted(images.drop_null().to_pylist())).encode()).hexdigest()


def unscreened_rows(space: Workspace, manifest: Path) -> int:
    """Images of a manifest that the present leakage stage did not see, or found to leak; by their bytes."""
    leaks, seen = space.columns("leakage", ["leaks"]), space.columns("ingest", ["sha256"])
    clean = leaks.filter(pc.invert(leaks["leaks"]))["row"]
    places = pc.index_in(clean, value_set=seen["row"].combine_chunks())
    checksums = seen["sha256"].take(places.combine_chunks())
    wanted = pq.read_table(manifest, columns=["sha256"])["sha256"]
    return wanted.length() - (pc.sum(pc.is_in(wanted, value_set=checksums.combine_chunks())).as_py() or 0)
