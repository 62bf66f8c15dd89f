"""Room that a thread works in again and again: fresh memory costs a page fault every 4 KiB, which
is more than coding what stands in it.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["workspace"]

# Larger ones are not kept.
MOST_BYTES = 4 << 20
_held = threading.local()


def workspace(name: str, size: int, dtype: Any) -> NDArray[Any]:
    """An array (size,) of anything, which the next call of this name in this thread gives again: it
    must not outlive the function that asked for it.
    """
    wanted = size * np.dtype(dtype).itemsize
    if wanted > MOST_BYTES:
        return np.empty(size, dtype=dtype)
    kept: NDArray[np.uint8] | None = getattr(_held, name, None)
    if kept is None or kept.size < wanted:
        kept = np.empty(min(2 * wanted, MOST_BYTES), dtype=np.uint8)
        setattr(_held, name, kept)
    return kept[:wanted].view(dtype)
