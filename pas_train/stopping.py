"""Ctrl-C, SIGTERM and SLURM's signal before the time limit as a wish that a training notices between two steps."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from pas_train import slurm

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """While in its block, the first signal during the training is noted in `asked`, and Ctrl-C again ends at once.

    Before and after the training both end the program at once, as ever. In a job of SLURM its signal is noted likewise;
    outside the training it does what it did before. In the loaders' processes, which are forked
    while this is in place, Ctrl-C does nothing: they end with the program that needs their last batches.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self._training = False
        self._process = os.getpid()
        self._before: dict[signal.Signals, Any] = {}
        self._signals = (*SIGNALS, slurm.REQUEUE) if slurm.in_job() else SIGNALS

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # nobody else may
            self._before = {number: signal.getsignal(number) for number in self._signals}
            self._install()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._training = False
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def begin(self) -> None:
        """The training begins. Lightning has put its own handler of SIGTERM on top, which saves nothing."""
        self._training = True
        if self._before:
            self._install()

    def end(self) -> None:
        """The training is over."""
        self._training = False

    def _install(self) -> None:
        for number in self._signals:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        name = signal.Signals(number)
        if not self._training and name == slurm.REQUEUE:
            before = self._before.get(name)
            if callable(before):
                before(number, frame)
            return
        if not self._training or (self.asked is not None and name == signal.SIGINT):
            if name == signal.SIGINT:
                raise KeyboardInterrupt
            raise SystemExit(128 + number)
        if self.asked is None:
            self.asked = name
            again = " Ctrl-C again ends at once." if name == signal.SIGINT else ""
            # Not print: the signal may have come in the middle of one.
            os.write(2, f"\n{name.name}: saves after this step and ends.{again}\n".encode())
