"""Loading processes that a signal to all processes of a training does not end."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def deaf_from_birth() -> Iterator[None]:
    """Processes that are forked inside hold SIGTERM back in all their threads, as `heed_parent_only` needs.

    Libraries start threads of their own in a forked process before any line of ours runs there (Arrow does), and a
    thread that does not hold the signal back would end the process.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heed_parent_only(worker: int) -> None:
    """For DataLoader's `worker_init_fn`: SIGTERM ends this process only where the training itself sends it.

    `timeout` and SLURM send it to the loading processes too, but the training goes on to the end of its step and saves,
    and may need their batches until then. They end when it does. Fork them inside `deaf_from_birth`.
    """
    if not hasattr(signal, "sigwaitinfo"):  # macOS
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
