import os
import signal
import sys
import time

import pytest
from torch.utils.data import DataLoader

from datamodules.workers import heed_parent_only

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="signals tell no sender there")


def test_heed_parent_only__a_signal_to_all_processes_leaves_the_loading_ones() -> None:
    loader = DataLoader(range(100), num_workers=1, worker_init_fn=heed_parent_only)
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
    batches = iter(DataLoader(range(100), num_workers=1, worker_init_fn=heed_parent_only, persistent_workers=True))
    next(batches)
    (process,) = batches._workers
    process.terminate()
    process.join(timeout=5)
    assert process.exitcode == 0
