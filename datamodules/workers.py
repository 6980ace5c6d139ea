"""Loading processes that a signal to all processes of a training does not end."""

import os
import signal
import threading


def heed_parent_only(worker: int) -> None:
    """For DataLoader's `worker_init_fn`: SIGTERM ends this process only where the training itself sends it.

    `timeout` and SLURM send it to the loading processes too, but the training goes on to the end of its step and saves,
    and may need their batches until then. They end when it does.
    """
    if not hasattr(signal, "sigwaitinfo"):  # macOS
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
