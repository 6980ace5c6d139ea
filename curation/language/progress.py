"""How far the asking is, for the person at the console."""

import sys

from tqdm import tqdm


class Progress:
    """Answers per second and time left. Where the error stream is no terminal, a line every 30 s."""

    def __init__(self, title: str, total: int, done: int = 0, show: bool = True) -> None:
        quiet = not sys.stderr.isatty()
        self.bar = tqdm(
            total=total, initial=done, desc=f"{title:<10}", unit="answers", disable=not show, leave=False,
            mininterval=30.0 if quiet else 0.2, delay=30.0 if quiet else 0.3, dynamic_ncols=True,
        )  # fmt: skip

    def step(self, answers: int) -> None:
        """Counts answers, never beyond the total."""
        self.bar.update(min(answers, self.bar.total - self.bar.n))

    def close(self) -> None:
        """Ends the line."""
        self.bar.close()
