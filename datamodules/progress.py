"""How far a long piece of work is, for the person at the console. Imports no torch."""

import sys

from tqdm import tqdm


class Progress:
    """Items per second and time left. Where the error stream is no terminal, a line every 30 s.

    Args:
        title: Of the work.
        total: Items in all.
        done: Items that an earlier run did.
        unit: What is counted.
        show: Whether this process talks.
        share: Items that a step of this process stands for: one of each rank, as they have nearly equal shares.
    """

    def __init__(
        self, title: str, total: int, done: int = 0, unit: str = "img", show: bool = True, share: int = 1
    ) -> None:
        quiet = not sys.stderr.isatty()
        self.share = share
        self.bar = tqdm(
            total=total, initial=done, desc=f"{title:<10}", unit=unit, disable=not show, leave=False,
            mininterval=30.0 if quiet else 0.2, delay=30.0 if quiet else 0.3, dynamic_ncols=True,
        )  # fmt: skip

    def step(self, count: int = 1) -> None:
        """Counts items of this process, never beyond the total."""
        self.bar.update(min(count * self.share, self.bar.total - self.bar.n))

    def reach(self, count: int) -> None:
        """So many items are done in all."""
        self.bar.update(count - self.bar.n)

    def close(self) -> None:
        """Ends the line."""
        self.bar.close()
