"""CPU time of processes that work beside each other."""

import os
import resource
import time
from collections.abc import Callable


def measured(work: Callable[[], None]) -> tuple[float, float, float]:
    """CPU seconds of the child processes and of this one, and wall seconds."""
    before = [resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
    wall = time.perf_counter()
    work()
    wall = time.perf_counter() - wall
    after = [resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
    used = [b.ru_utime + b.ru_stime - a.ru_utime - a.ru_stime for a, b in zip(before, after, strict=True)]
    return used[0], used[1], wall


def run_beside(theirs: Callable[[], None], ours: Callable[[], None]) -> None:
    """Runs one function in a child process and the other here."""
    child = os.fork()
    if child == 0:
        theirs()
        os._exit(0)
    ours()
    os.waitpid(child, 0)
