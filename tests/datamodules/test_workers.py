import os
import signal
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.loaders import QuietLoader
from datamodules.workers import heed_parent_only

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="signals tell no sender there")


def test_heed_parent_only__a_signal_to_all_processes_leaves_the_loading_ones(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": range(100)}), tmp_path / "a.parquet", row_group_size=10)
    pq.read_table(tmp_path / "a.parquet")  # starts Arrow's threads, from now on in every forked process too
    loader = QuietLoader(range(100), num_workers=1, worker_init_fn=heed_parent_only)
    batches = iter(loader)
    next(batches)
    (process,) = batches._workers
    other = os.fork()
    if other == 0:
        os.kill(process.pid, signal.SIGTERM)
        os._exit(0)
    os.waitpid(other, 0)
    time.sleep(0.3)
    assert len(list(batches)) == 99


def test_heed_parent_only__the_parent_ends_them() -> None:
    batches = iter(QuietLoader(range(100), num_workers=1, worker_init_fn=heed_parent_only, persistent_workers=True))
    next(batches)
    (process,) = batches._workers
    process.terminate()
    process.join(timeout=5)
    assert process.exitcode == 0
