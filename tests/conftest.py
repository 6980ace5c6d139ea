"""Shared fixtures."""

import atexit
import gc
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # its pool of OpenMP threads would not come along into a forked process
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("WANDB__SAVE_REQUIREMENTS", "false")  # a list of all packages here, with every run


gc.disable()  # until all is imported: it would look through ever more modules, none of which goes
atexit.register(gc.unfreeze)  # some libraries complain of what is left at the end


def keep() -> None:
    """Spares what there is now from all later searches for garbage, which Lightning begins with every fit.

    A search through the modules of torch, transformers and the others takes half a second, and in a forked process
    copies the pages they are on.
    """
    gc.collect()
    gc.freeze()


def pytest_collection_finish() -> None:
    gc.enable()
    keep()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is not None and nextitem.path != item.path:
        keep()  # what the file has imported; its fixtures have gone


LAST_WORDS_S = 10.0  # that a rank has when the other has failed


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def two_ranks() -> Iterator[Callable[[Callable[[int], None]], None]]:
    """Runs work(rank) in two forked processes that see torchrun's environment; fails if one of them fails.

    Forking after the imports costs 0.3 s instead of two fresh interpreters' 30.
    """

    def run(work: Callable[[int], None]) -> None:
        port = free_port()
        children = []
        for rank in range(2):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    os.environ.update(
                        TORCHELASTIC_RUN_ID="test", RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2",
                        LOCAL_WORLD_SIZE="2", GROUP_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
                    )  # fmt: skip
                    work(rank)
                    code = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
            children.append(child)
        codes: dict[int, int] = {}
        failed_at = None
        while len(codes) < 2:
            for child in children:
                if child not in codes and (ended := os.waitpid(child, os.WNOHANG))[0]:
                    codes[child] = os.waitstatus_to_exitcode(ended[1])
                    failed_at = time.monotonic() if codes[child] and failed_at is None else failed_at
                elif child not in codes and failed_at is not None and time.monotonic() > failed_at + LAST_WORDS_S:
                    os.kill(child, signal.SIGKILL)  # it may wait for ever for one that never came
            time.sleep(0.02)
        assert list(codes.values()) == [0, 0], f"exit codes of the two ranks: {[codes[child] for child in children]}"

    yield run
