"""A line every ten seconds while images are gone through."""

import time

LINE_S = 10.0


class Progress:
    """Says how many images are done, how fast, and how long the rest takes.

    what: the line's first word; total: images; shown: whether anything is said.
    """

    def __init__(self, what: str, total: int, shown: bool = True) -> None:
        self.what, self.total, self.shown, self.done = what, total, shown, 0
        self.begun = self.told = time.monotonic()

    def add(self, images: int) -> None:
        """Counts images."""
        self.done += images
        now = time.monotonic()
        if self.shown and now - self.told >= LINE_S:
            self.told = now
            rate = self.done / (now - self.begun)
            left = round((self.total - self.done) / rate)
            clock = f"{left // 3600}:{left % 3600 // 60:02d}:{left % 60:02d}"
            done = f"{self.done:,} of {self.total:,} images, {rate:,.0f} images/s"
            print(f"{self.what:<12}{done}, {clock} left", flush=True)
