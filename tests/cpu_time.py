"""CPU time of what has to be quick, on machines that do other things as well."""

from __future__ import annotations

import time
from collections.abc import Callable


def fastest(work: Callable[[], object], enough: float, rounds: int = 6) -> float:
    """CPU seconds that `work` takes this thread at its fastest; the first go below `enough` is the last.

    A neighbour on the same core makes one go several times as long as the next; what is slow by nature is slow always.
    """
    found = float("inf")
    for _ in range(rounds):
        began = time.thread_time()
        work()
        found = min(found, time.thread_time() - began)
        if found < enough:
            break
    return found
