import os
import signal
import sys
import threading
import time

import pytest

from datamodules.loaders import QuietLoader
from datamodules.workers import heed_parent_only

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="signals tell no sender there")


def test_heed_parent_only__a_signal_to_all_processes_leaves_the_loading_ones() -> None:
    # As Arrow does: a thread of its own in every forked process, before any line of ours runs there.
    alive = [True]
    os.register_at_fork(
        after_in_child=lambda: alive and threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
    )
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
    alive.clear()


def test_heed_parent_only__the_parent_ends_them() -> None:
    batches = iter(QuietLoader(range(100), num_workers=1, worker_init_fn=heed_parent_only, persistent_workers=True))
    next(batches)
    (process,) = batches._workers
    process.terminate()
    process.join(timeout=5)
    assert process.exitcode == 0
