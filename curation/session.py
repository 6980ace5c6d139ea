"""The processes of a run: one place that makes Trainers, knows the ranks and lets them meet."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")

# Array stages run on rank 0 while the others wait at a barrier: hours at millions of images, not gloo's 30 minutes.
PATIENCE = timedelta(days=7)


def launched_devices(devices: Any, num_nodes: int = 1) -> tuple[Any, int]:
    """Devices and nodes that agree with torchrun or SLURM, where one of them started this process.

    On a CPU Lightning reads `devices: auto` as 1 even under torchrun, so that every process would take itself for
    rank 0 of 1 and all would write. Raises ValueError where a number in the yaml and the launcher disagree.
    """
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env or ("LOCAL_WORLD_SIZE" in env and "RANK" in env):
        local = int(env["LOCAL_WORLD_SIZE"])
        launcher, world = "torchrun", int(env["WORLD_SIZE"])
    elif "SLURM_NTASKS_PER_NODE" in env and env.get("SLURM_JOB_NAME") not in ("bash", "interactive", None):
        local = int(env["SLURM_NTASKS_PER_NODE"].split("(")[0])
        launcher, world = "SLURM", int(env["SLURM_NTASKS"])
    elif int(env.get("SLURM_NTASKS", "1")) > 1 and env.get("SLURM_JOB_NAME") not in ("bash", "interactive", None):
        raise ValueError(
            f"SLURM runs {env['SLURM_NTASKS']} tasks without a number for each node, which the trainer needs: give "
            "sbatch or srun --ntasks-per-node (one task for each device) and --nodes instead of --ntasks"
        )
    else:
        return devices, num_nodes
    nodes = max(1, world // local)
    if devices in ("auto", -1, "-1", None):
        return local, nodes
    if isinstance(devices, str) and "," in devices:  # Lightning's list of device numbers
        asked = len([number for number in devices.split(",") if number.strip()])
    elif isinstance(devices, list):
        asked = len(devices)
    else:
        asked = int(devices) if str(devices).isdecimal() else -1
    if asked != local or (num_nodes != 1 and num_nodes != nodes):
        raise ValueError(
            f"trainer.devices is {devices} on trainer.num_nodes {num_nodes}, but {launcher} started {local} "
            f"processes on each of {nodes} nodes; leave trainer.devices at auto or make them agree"
        )
    return devices, nodes


class _Nothing(LightningModule):
    def predict_step(self, batch: Any, batch_idx: int) -> int:
        return 0


class _EndAtSigterm(Callback):
    """SIGTERM ends this process in a loop as it does outside, and with it the ranks that the launcher started.

    Lightning's own handler only notes the signal, for its training loop to see, and with several ranks waits for the
    others in it. Nothing but the chunks in flight is lost.
    """

    def __init__(self, launcher: Any) -> None:
        self.launcher, self.before = launcher, signal.getsignal(signal.SIGTERM)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._end)  # until Lightning puts back what was there before the loop
            if trainer.received_sigterm:
                self._end(signal.SIGTERM, None)

    def _end(self, signum: int, frame: Any) -> None:
        if self.launcher is not None:
            self.launcher.kill(signum)
        signal.signal(signum, self.before)
        signal.raise_signal(signum)


@dataclass
class Session:
    """The ranks of one run. Every rank runs the same program; Trainers made here share one process group."""

    accelerator: str = "auto"
    devices: Any = "auto"
    num_nodes: int = 1
    strategy: Any = "auto"
    precision: str = "32-true"
    _started: bool = field(default=False, init=False)
    _launcher: Any = field(default=None, init=False)  # of the trainer that started the other ranks

    def __post_init__(self) -> None:
        self.devices, self.num_nodes = launched_devices(self.devices, self.num_nodes)
        if self.precision not in ("32-true", "16-mixed", "bf16-mixed"):
            raise ValueError(
                f"curation.precision is {self.precision!r}; use '32-true' (default), 'bf16-mixed' or '16-mixed'"
            )

    def trainer(self, callbacks: Sequence[Callback] = (), **options: Any) -> Trainer:
        """A Trainer for one prediction loop on this run's devices; quiet, without files of its own."""
        for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
            logging.getLogger(name).setLevel(logging.WARNING)
        strategy = self.strategy
        if strategy in ("auto", "ddp", "ddp_find_unused_parameters_true", "fsdp2"):  # nothing to shard in a curation
            strategy = DDPStrategy(timeout=PATIENCE) if self._many() else "auto"
        return Trainer(
            accelerator=self.accelerator,
            devices=self.devices,
            num_nodes=self.num_nodes,
            strategy=strategy,
            precision=self.precision,  # type: ignore[arg-type]
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[*callbacks, _EndAtSigterm(self._launcher)],
            **options,
        )

    def _many(self) -> bool:
        plain = Trainer(
            accelerator=self.accelerator,
            devices=self.devices,
            num_nodes=self.num_nodes,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
        )
        return plain.world_size > 1

    def start(self) -> None:
        """Starts the other ranks and the process group; nothing to do for one process."""
        if self._started:
            return
        self._started = True
        trainer = self.trainer()
        if trainer.world_size > 1:
            trainer.predict(_Nothing(), DataLoader(cast(Dataset[int], [0])), return_predictions=False)
            self._launcher = trainer.strategy.launcher

    @property
    def rank(self) -> int:
        """This process's number, 0 without a process group."""
        return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1

    @property
    def is_zero(self) -> bool:
        """Whether this is the process that talks and writes shared files."""
        return self.rank == 0

    @property
    def search_devices(self) -> list[str] | None:
        """Torch devices of searches among embeddings: none where the CPU was asked for, else what there is (null)."""
        return [] if self.accelerator == "cpu" else None

    def barrier(self) -> None:
        """Waits for all ranks."""
        if self.world_size > 1:
            torch.distributed.barrier()

    def broadcast(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        if self.world_size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def on_zero(self, work: Callable[[], T]) -> T:
        """Runs `work` on rank 0 while the others wait; its result, or its error, reaches every rank."""
        result: Any = None
        error: Exception | None = None
        if self.is_zero:
            try:
                result = work()
            except Exception as caught:  # told to the other ranks first, so that none waits for ever, then raised
                error = caught
        if self.world_size > 1:
            failed = self.broadcast(None if error is None else f"{type(error).__name__}: {error}")
            if failed and not self.is_zero:
                raise RuntimeError(f"rank 0 stopped: {failed}")
            if error is None:
                result = self.broadcast(result)
        if error is not None:
            raise error
        return result
