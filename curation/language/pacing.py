"""When a request may be sent, of clients that keep many in flight."""

import asyncio
import random
import time

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0


class Pacing:
    """Waits before a request: longer after each failure of its own, and for all where the server asked one to wait."""

    def __init__(self) -> None:
        self.not_before = 0.0

    def hold(self, seconds: float) -> None:
        """Nobody asks for so long: the server said Retry-After."""
        self.not_before = max(self.not_before, time.monotonic() + seconds)

    async def pause(self, attempt: int) -> None:
        """Waits before the attempt of this number, 0 for the first, doubling, with jitter."""
        if attempt:
            longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempt - 1))
            await asyncio.sleep(longest * random.uniform(0.5, 1.0))
        while (left := self.not_before - time.monotonic()) > 0:
            await asyncio.sleep(left)
