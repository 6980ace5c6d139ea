"""A pool of 200,000 rows costs no Python object per row, neither in the parent nor in the loader's workers."""

import io
import os
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from curation.session import Session
from curation.stage import Context, run_stage
from curation.stages.ingest import Index, Ingest
from curation.workspace import Workspace

ROWS, SHARDS = 200_000, 20


def write_pool(folder: Path) -> Path:
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    data = buffer.getvalue()
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for number in range(ROWS // SHARDS):
                info = tarfile.TarInfo(f"{shard:05d}{number:04d}.jpg")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return folder


class Watch(threading.Thread):
    """Samples the resident memory in MB of this process and of each of its children."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.parent: list[float] = []
        self.children: dict[int, list[float]] = {}
        self.over = threading.Event()

    def run(self) -> None:
        this = psutil.Process(os.getpid())
        while not self.over.wait(0.5):
            self.parent.append(this.memory_info().rss / 1e6)
            for child in this.children(recursive=True):
                try:
                    self.children.setdefault(child.pid, []).append(child.memory_info().rss / 1e6)
                except psutil.NoSuchProcess:
                    continue


@pytest.mark.benchmark
@pytest.mark.timeout(900)
def test_ingest__memory_of_parent_and_workers_stays_flat(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool")
    index, ingest = Index(), Ingest(num_workers=1)
    stages = {"index": index, "ingest": ingest}
    context = Context(Workspace(tmp_path / "ws"), Session(accelerator="cpu"), "x", "", pool, stages=stages)
    context.session.start()
    run_stage(index, context)
    assert context.workspace.index.num_rows == ROWS
    watch, blocks = Watch(), sys.getallocatedblocks()
    watch.start()
    run_stage(ingest, context)
    watch.over.set()
    watch.join()
    grown = sys.getallocatedblocks() - blocks
    print(f"\nPython objects left by {ROWS} rows: {grown}")
    worker = max(watch.children.values(), key=len)
    for name, seen in {"parent": watch.parent, "worker": worker}.items():
        early, late = np.median(seen[len(seen) // 5 : 2 * len(seen) // 5]), np.median(seen[-len(seen) // 5 :])
        print(f"{name:<8}{early:8.0f} MB at the beginning, {late:.0f} MB at the end, {max(seen):.0f} MB at most")
        assert late - early < 50, f"{name} grew: {[round(value) for value in seen]}"
    assert grown < ROWS / 10
