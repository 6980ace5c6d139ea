"""How fast a training goes, what it waits for, and a line of progress where there is no terminal for a bar."""

import copy
import os
import resource
import sys
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from pas_train.losses import gather_rows

# Vendors' peaks without sparsity, in TFLOP/s: 16 bits (accumulated in 32), TF32, 32 bits. The first name that is in the
# device's counts. (Lightning's own table gives sparse peaks for some, and does not know the name "NVIDIA H200".)
PEAK_TFLOPS = {
    "H200": (989.4, 494.7, 66.9),
    "H100 PCIe": (756.0, 378.0, 51.2),
    "H100": (989.4, 494.7, 66.9),
    "A100": (312.0, 156.0, 19.5),
    "L40S": (362.0, 183.0, 91.6),
    "L4": (121.0, 60.0, 30.3),
    "RTX 4090": (165.2, 82.6, 82.6),
    "RTX 3090": (71.0, 35.6, 35.6),
    "V100": (125.0, 15.7, 15.7),
    "T4": (65.0, 8.1, 8.1),
}
FIRST_STEPS = 2  # not counted: they allocate and compile
LEAST_STEPS = 20  # before the data path is said to be the limit
LINE_S = 10.0  # between two lines of progress at least


def flops_per_image(module: Any) -> float | None:
    """Floating-point operations of a training step per image (both views), a multiply-add counting two.

    A part that is trained costs its forward and twice as much for the gradients, any other its forward: a MoCo v3
    backbone 2 * (3 + 1) forwards, NNCLR's 2 * 3. None for a module that is not built like a `PretrainingMethod`.
    """
    from torch.utils.flop_counter import FlopCounterMode

    def forward(part: nn.Module, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        twin = copy.deepcopy(part).to("meta").eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            out = twin(torch.empty(1, *shape, device="meta"))
        return counter.get_total_flops(), tuple(out.shape[1:])

    if not hasattr(module, "backbone") or not hasattr(module, "image_size"):
        return None
    total = 0
    for chain in (("backbone", "projector", "predictor"), ("momentum_backbone", "momentum_projector")):
        shape: tuple[int, ...] = (3, module.image_size, module.image_size)
        for name in chain:
            part = getattr(module, name, None)
            if part is not None:
                flops, shape = forward(part, shape)
                total += flops * (3 if any(p.requires_grad for p in part.parameters()) else 1)
    return 2.0 * total


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Operations a second that a device can do at most at the trainer's precision; None where that is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device).lower()
    for key, (half, tf32, single) in PEAK_TFLOPS.items():
        if key.lower() in name.replace("-", " "):
            if "16" in str(precision):
                return half * 1e12
            return (tf32 if torch.backends.cuda.matmul.allow_tf32 else single) * 1e12
    return None


class Throughput(Callback):
    """Measures a training and logs, at the log interval, since the last time:

    `throughput/images_per_second` over all devices (an image is both its views), `throughput/step_seconds`,
    `throughput/data_wait` (share of the time in which a device waits for images, of the rank that waits most),
    `throughput/peak_memory_gb` (of a GPU; on a CPU of the process without its loaders) and, where the device's peak is
    known, `throughput/mfu`: the model's operations against it. Validations are left out. Says in words, once and at
    the end, when the data path is the limit.

    Args:
        data_limit: Share of waiting above which the data path is said to be the limit.
        peak_tflops: Of one device at the trainer's precision; null takes the vendor's, where it is known.
        lines: A line of progress at the log interval, ten seconds apart; null where the output is no terminal.
    """  # noqa: D415

    def __init__(self, data_limit: float = 0.1, peak_tflops: float | None = None, lines: bool | None = None) -> None:
        if not 0 < data_limit <= 1:
            raise ValueError(f"throughput.data_limit must be above 0 and at most 1, got {data_limit}")
        if peak_tflops is not None and peak_tflops <= 0:
            raise ValueError(f"throughput.peak_tflops must be positive, or null for the vendor's, got {peak_tflops}")
        self.data_limit = data_limit
        self.peak_tflops = peak_tflops
        self.lines = lines
        self.flops: float | None = None  # of one image
        self.totals = _Span()
        self._span = _Span()
        self._since_line = _Span()
        self._skipped = 0
        self._mark: float | None = None  # the end of the last step, seconds
        self._ended: Any = None  # the same as the device sees it, where that is a GPU
        self._away = 0.0  # when a validation began
        self._gaps: list[tuple[float, Any, Any]] = []
        self._said = False
        self._line_at = 0.0

    # The hooks.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Counts the model's operations, before a strategy cuts it into shards."""
        if stage == "fit":
            self.flops = flops_per_image(pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What the first batch of an epoch makes the training wait counts from here."""
        self._mark = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """The batch is there: the wait for it is over."""
        if self._mark is not None:
            event = _event(pl_module.device)
            self._gaps.append((time.perf_counter() - self._mark, self._ended, event))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the step, and logs at the interval."""
        if self._skipped < FIRST_STEPS:
            self._skipped += 1
            self._span, self._gaps = _Span(time.perf_counter()), []
        else:
            self._span.steps += 1
            self._span.images += _images(batch) * trainer.world_size
            if trainer.global_step % max(1, trainer.log_every_n_steps) == 0:  # type: ignore[attr-defined]
                self._report(trainer, pl_module)
        self._mark, self._ended = time.perf_counter(), _event(pl_module.device)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation is no part of the training's speed."""
        self._away = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The clock goes on."""
        now = time.perf_counter()
        self._span.begun += now - self._away
        self._mark, self._ended = now, None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says in a line how fast the training was, and what it waited for."""
        if self._span.steps:
            self._close(pl_module)
        if self.totals.steps and trainer.is_global_zero:
            print(f"throughput  {self._described(self.totals, pl_module.device, trainer)}", flush=True)
            if self.totals.steps >= LEAST_STEPS and self._waits(self.totals):
                print(f"throughput  {self._data_path(self.totals, trainer)}", flush=True)

    # The parts.

    def _close(self, module: LightningModule) -> "_Span":
        """Ends the stretch since the last log; returns it."""
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
        span, now = self._span, time.perf_counter()
        span.seconds = now - span.begun
        wait = sum(_stalled(*gap) for gap in self._gaps)
        waits = gather_rows(torch.tensor([wait], device=module.device))
        span.waited = min(float(waits.max()), span.seconds)
        self.totals.add(span)
        self._since_line.add(span)
        self._span, self._gaps = _Span(now), []
        return span

    def _report(self, trainer: Trainer, module: LightningModule) -> None:
        span = self._close(module)
        numbers = {
            "throughput/images_per_second": span.images / span.seconds,
            "throughput/step_seconds": span.seconds / span.steps,
            "throughput/data_wait": span.waited / span.seconds,
            "throughput/peak_memory_gb": _peak_memory_gb(module.device),
        }
        mfu = self._mfu(span, module.device, trainer)
        if mfu is not None:
            numbers["throughput/mfu"] = mfu
        module.log_dict(numbers)
        trainer.progress_bar_metrics["img/s"] = round(numbers["throughput/images_per_second"])
        if not trainer.is_global_zero:
            return
        if not self._said and self.totals.steps >= LEAST_STEPS and self._waits(self.totals):
            self._said = True
            print(f"throughput  {self._data_path(self.totals, trainer)}", flush=True)
        wanted = not sys.stdout.isatty() if self.lines is None else self.lines
        now = time.monotonic()
        if wanted and trainer.state.fn == TrainerFn.FITTING and now - self._line_at >= LINE_S:
            self._line_at = now
            print(progress_line(trainer, self._since_line), flush=True)
            self._since_line = _Span()

    def _mfu(self, span: "_Span", device: torch.device, trainer: Trainer) -> float | None:
        peak = peak_flops(device, str(trainer.precision)) if self.peak_tflops is None else 1e12 * self.peak_tflops
        if peak is None or self.flops is None:
            return None
        return self.flops * span.images / span.seconds / (peak * trainer.world_size)

    def _waits(self, span: "_Span") -> bool:
        return span.waited / span.seconds > self.data_limit

    def _described(self, span: "_Span", device: torch.device, trainer: Trainer) -> str:
        text = (
            f"{span.images / span.seconds:,.0f} images/s, {span.seconds / span.steps:.3g} s a step, "
            f"{100 * span.waited / span.seconds:.0f} % waiting for data, {_peak_memory_gb(device):.1f} GB at most"
        )
        mfu = self._mfu(span, device, trainer)
        return text if mfu is None else f"{text}, {100 * mfu:.0f} % of the device's arithmetic"

    def _data_path(self, span: "_Span", trainer: Trainer) -> str:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        workers, cores = getattr(data, "num_workers", None), len(os.sched_getaffinity(0)) // trainer.num_devices
        remedies = []
        if workers is not None and workers < cores:
            remedies.append(f"set data.num_workers to {cores} (it is {workers})")
        if getattr(data, "shrinking", False) is None:
            remedies.append("set data.short_side to 256 or 320, which re-encodes the images once")
        if getattr(data, "photometry", "") == "worker" and trainer.strategy.root_device.type == "cuda":
            remedies.append("set data.photometry to device")
        remedies.append("give the training more cores")
        return (
            f"The data path is the limit: the model waited for images {100 * span.waited / span.seconds:.0f} % of the "
            f"time (throughput.data_limit is {100 * self.data_limit:.0f} %). To go faster, {', or '.join(remedies)}"
        )


class _Span:
    """Steps, images and seconds of a stretch of the training."""

    def __init__(self, begun: float = 0.0) -> None:
        self.begun = begun
        self.steps = self.images = 0
        self.seconds = self.waited = 0.0

    def add(self, other: "_Span") -> None:
        self.steps += other.steps
        self.images += other.images
        self.seconds += other.seconds
        self.waited += other.waited


def progress_line(trainer: Trainer, span: Any) -> str:
    """Steps, loss, k-NN accuracy, speed and the time left, for a log that is read line by line."""
    logged = trainer.callback_metrics
    steps = int(min(trainer.estimated_stepping_batches, 2**62))
    parts = [f"training    step {trainer.global_step:,} of {steps:,}"]
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        parts.append(f"epoch {trainer.global_step / trainer.num_training_batches:.1f} of {trainer.max_epochs}")
    for name, title, form in (("train/loss", "loss", "{:.3f}"), ("val/knn_top1", "k-NN", "{:.1%}")):
        if name in logged:
            parts.append(f"{title} {form.format(float(logged[name])).replace('%', ' %')}")
    parts.append(f"{span.images / span.seconds:,.0f} images/s")
    parts.append(f"{clock((steps - trainer.global_step) * span.seconds / span.steps)} left")
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """A time such as 1:02:03, or 2 d 1:02:03."""
    days, rest = divmod(round(seconds), 86400)
    return f"{f'{days} d ' if days else ''}{rest // 3600}:{rest % 3600 // 60:02d}:{rest % 60:02d}"


def _images(batch: Any) -> int:
    """Images of this rank's batch."""
    if isinstance(batch, dict):
        return len(batch["index"]) if "index" in batch else len(next(iter(batch.values())))
    return len(batch[0] if isinstance(batch, list | tuple) else batch)


def _event(device: torch.device) -> Any:
    """A mark in the device's own queue; costs no wait. None on a CPU, which does not run ahead."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _stalled(waited: float, ended: Any, begun: Any) -> float:
    """Seconds of a wait in which the device had nothing to do: the loop may be steps ahead of it."""
    return waited if ended is None or begun is None else min(waited, ended.elapsed_time(begun) / 1000)


def _peak_memory_gb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
