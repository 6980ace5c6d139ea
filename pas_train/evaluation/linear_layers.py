"""Linear layers trained side by side on the same features, one for each learning rate: a batch is read once for all."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pas_train.checkpoint_io import save_whole
from pas_train.evaluation.neighbours import whole_products

MOMENTUM, BETAS, EPSILON = 0.9, (0.9, 0.999), 1e-8
BLOCK_BYTES = 2**27  # of features that are looked at a time
HELD_BYTES = 2**31  # of features that are held in memory; of more, each batch is read from the memory map
SAVE_SECONDS = 60.0


@dataclass(frozen=True)
class Schedule:
    """How a layer is trained. The rates fall to a tenth at 60 % and at 80 % (sgd), or with a cosine to 0 (adamw)."""

    optimizer: Literal["sgd", "adamw"]
    epochs: int
    batch_size: int
    weight_decay: float = 0.0

    def factor(self, epoch: int) -> float:
        """Of the learning rate in an epoch."""
        if self.optimizer == "adamw":
            return 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        return 0.1 ** ((epoch >= 0.6 * self.epochs) + (epoch >= 0.8 * self.epochs))


class Rows:
    """Features [N, D], moved to mean 0 and unit variance over all of them (or as they are), on a device.

    values may be a memory map. scale: (centre [D], spread), or None to take the features' own; of the test images it
    is that of the training images.
    """

    def __init__(
        self, values: np.ndarray, device: torch.device, scale: tuple[Tensor, Tensor] | None = None,
        standardise: bool = True,
    ) -> None:  # fmt: skip
        self.values, self.device, self.dim = values, device, values.shape[1]
        self.scale = scale or self._scale(standardise)
        self.held = self._hold() if values.nbytes <= HELD_BYTES or self._fits() else None

    def _fits(self) -> bool:
        return self.device.type == "cuda" and 3 * self.values.nbytes < torch.cuda.mem_get_info(self.device)[0]

    def _scale(self, standardise: bool) -> tuple[Tensor, Tensor]:
        if not standardise:
            return torch.zeros(self.dim, device=self.device), torch.ones((), device=self.device)
        count = len(self.values)
        means, squares = np.zeros(self.dim), np.zeros(self.dim)
        for rows in self._blocks():
            block = np.asarray(self.values[rows], np.float64)
            means += block.sum(axis=0) / count
        for rows in self._blocks():
            squares += ((np.asarray(self.values[rows], np.float64) - means.mean()) ** 2).sum(axis=0)
        spread = max(math.sqrt(squares.sum() / max(1, count * self.dim - 1)), 1e-8)
        return torch.from_numpy(means).float().to(self.device), torch.tensor(spread, device=self.device).float()

    def _hold(self) -> Tensor:
        held = torch.empty(self.values.shape, device=self.device)
        for rows in self._blocks():
            held[rows] = self._moved(self.values[rows])
        return held

    def _blocks(self) -> Iterator[slice]:
        step = max(1, BLOCK_BYTES // (8 * self.dim))
        return (slice(begin, begin + step) for begin in range(0, len(self.values), step))

    def _moved(self, block: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.array(block, dtype=np.float32)).to(self.device)
        return tensor.sub_(self.scale[0]).div_(self.scale[1])

    def __getitem__(self, rows: Tensor) -> Tensor:
        """A batch [B, D]; rows: int64 [B] of the same device."""
        return self.held[rows] if self.held is not None else self._moved(self.values[rows.cpu().numpy()])

    def __iter__(self) -> Iterator[Tensor]:
        """All rows, in blocks."""
        for rows in self._blocks():
            yield self.held[rows] if self.held is not None else self._moved(self.values[rows])


class LinearLayers:
    """R linear layers of D features and C classes, as one matrix [D + 1, R, C] whose last row is the biases.

    rates: of each layer. All begin with the same weights, drawn with the seed, and see the same batches: each becomes
    what it would be alone.
    """

    def __init__(self, dim: int, classes: int, rates: list[float], seed: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(seed)
        weights = torch.zeros(dim + 1, 1, classes)
        weights[:dim] = torch.empty(classes, dim).normal_(0, 0.01, generator=generator).T[:, None]
        self.weights = weights.repeat(1, len(rates), 1).to(device)
        self.rates = torch.tensor(rates, device=device)[:, None]
        self.seed, self.epoch = seed, 0
        self.moments = [torch.zeros_like(self.weights)]
        self.steps = 0

    def train(
        self, rows: Rows, labels: np.ndarray, kept: np.ndarray, schedule: Schedule, state: Path | None = None,
        tell: Callable[[int], None] = lambda epoch: None,
    ) -> None:  # fmt: skip
        """Trains on the rows `kept` with their labels; batches are drawn by seed and epoch.

        state: a file that the training goes on from after a kill, where it takes longer than a minute.
        """
        answers, chosen = torch.from_numpy(labels).to(rows.device), torch.from_numpy(kept)
        if schedule.optimizer == "adamw" and len(self.moments) == 1:
            self.moments.append(torch.zeros_like(self.weights))
        self._load(state)
        saved = time.monotonic()
        with whole_products(), torch.inference_mode():
            while self.epoch < schedule.epochs:
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
                order = chosen[torch.randperm(len(chosen), generator=generator)].to(rows.device)
                factor = schedule.factor(self.epoch)
                for part in order.split(schedule.batch_size):
                    self._step(rows[part], answers[part], factor, schedule)
                self.epoch += 1
                tell(self.epoch)
                if state is not None and time.monotonic() - saved > SAVE_SECONDS and self.epoch < schedule.epochs:
                    self._save(state)
                    saved = time.monotonic()

    def _step(self, x: Tensor, y: Tensor, factor: float, schedule: Schedule) -> None:
        wrong = self.scores(x).softmax(dim=2)  # [B, R, C]
        right = y[:, None, None].expand(-1, wrong.shape[1], 1)
        wrong.scatter_add_(2, right, wrong.new_full((), -1.0).expand(right.shape))
        (self._sgd if schedule.optimizer == "sgd" else self._adamw)(x, wrong, factor, schedule.weight_decay)

    def _gradient(self, x: Tensor, wrong: Tensor, into: Tensor, keep: float) -> None:
        """Makes keep * into + the gradient of the mean cross-entropy of `into`, in one product."""
        flat, share = wrong.view(len(x), -1), 1 / len(x)
        matrix, biases = into[:-1].view(x.shape[1], -1), into[-1].view(1, -1)
        torch.addmm(matrix, x.T, flat, beta=keep, alpha=share, out=matrix)
        torch.addmm(biases, flat.new_ones(1, len(x)), flat, beta=keep, alpha=share, out=biases)

    def _sgd(self, x: Tensor, wrong: Tensor, factor: float, weight_decay: float) -> None:
        moment = self.moments[0]
        self._gradient(x, wrong, moment, MOMENTUM)
        if weight_decay:
            moment.add_(self.weights, alpha=weight_decay)
        self.weights.addcmul_(moment, self.rates, value=-factor)

    def _adamw(self, x: Tensor, wrong: Tensor, factor: float, weight_decay: float) -> None:
        first, second = self.moments
        gradient = torch.empty_like(self.weights)
        self._gradient(x, wrong, gradient, 0.0)
        self.steps += 1
        if weight_decay:
            self.weights.mul_(1 - factor * weight_decay * self.rates)
        first.lerp_(gradient, 1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        spread = torch.sqrt(second, out=gradient).div_(math.sqrt(1 - BETAS[1] ** self.steps)).add_(EPSILON)
        move = torch.div(first, spread, out=spread).mul_(self.rates)
        self.weights.add_(move, alpha=-factor / (1 - BETAS[0] ** self.steps))

    def scores(self, x: Tensor) -> Tensor:
        """Of each layer and class [B, R, C] for features [B, D]."""
        width, layers, classes = self.weights.shape
        matrix = self.weights[:-1].view(width - 1, -1)
        return torch.addmm(self.weights[-1].view(-1), x, matrix).view(len(x), layers, classes)

    def _load(self, state: Path | None) -> None:
        if state is not None and state.is_file():
            told = torch.load(state, map_location=self.weights.device)
            self.weights, self.moments, self.epoch, self.steps = (
                told["weights"], told["moments"], told["epoch"], told["steps"],
            )  # fmt: skip

    def _save(self, state: Path) -> None:
        told = {"weights": self.weights, "moments": self.moments, "epoch": self.epoch, "steps": self.steps}
        save_whole(told, state)
