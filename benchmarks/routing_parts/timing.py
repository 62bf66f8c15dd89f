"""CPU time of single-threaded calls: on a busy machine wall time measures the neighbours."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any


def seconds(call: Callable[[], Any]) -> float:
    """CPU seconds of this thread that one call takes."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def paired(ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Median CPU seconds of each, alternated after a warm-up of both."""
    ours()
    theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    return median(a for a, _ in pairs), median(b for _, b in pairs)
