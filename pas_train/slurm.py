"""SLURM's time limit: on the signal before it, the job asks to be run again, and goes on where it was.

A batch script says `#SBATCH --requeue` and `#SBATCH --signal=USR1@300`; SLURM then sends SIGUSR1 to the tasks of `srun`
300 s before the end. (Lightning's own handler saves in the middle of a step, in a folder that a run does not look in,
and leaves the checkpoints of curation's encoders there for the training to load.)
"""

import os
import signal
import subprocess
import threading
from types import FrameType

REQUEUE = signal.SIGUSR1


def in_job() -> bool:
    """Whether SLURM started this process; shells inside an allocation do not count."""
    return {"SLURM_JOB_ID", "SLURM_NTASKS"} <= os.environ.keys() and os.environ.get("SLURM_JOB_NAME") not in (
        "bash",
        "interactive",
    )


def requeue() -> bool:
    """Asks SLURM to run this job again, and says how that went; for one task of the job."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
        failure = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}" if done.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        failure = str(error)
    said = f"job {job} runs again when there is room" if failure is None else (
        f"job {job} was not requeued (scontrol: {failure}); submit the same script again, it goes on"
    )  # fmt: skip
    os.write(2, f"slurm       {said}\n".encode())  # not print: a signal may have come in the middle of one
    return failure is None


def requeue_on_signal() -> None:
    """From now on the signal has the job run again; what works at the time goes on until SLURM ends it.

    Curation and evaluation lose what the last seconds did. A training saves first, see `stopping.StopSignals`.
    """
    if not in_job() or threading.current_thread() is not threading.main_thread():
        return
    process = os.getpid()

    def note(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process and os.environ.get("SLURM_PROCID", "0") == "0":
            requeue()

    signal.signal(REQUEUE, note)
