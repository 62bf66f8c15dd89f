"""Random numbers of compiled searches."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["xorshift"]


@njit(inline="always")
def xorshift(state: Any) -> Any:
    """The next random state, uint64 (Marsaglia, 2003)."""
    state ^= state << np.uint64(13)
    state ^= state >> np.uint64(7)
    return state ^ (state << np.uint64(17))
