"""Arrays of amplitudes that are kept between calls: touching fresh memory costs more than a layer.

Safe between threads: a workspace is taken out of the pool while it is in use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

__all__ = ["Workspaces"]

# Arrays of a power of two behind each other would fall onto the same cache sets; an odd number of
# cache lines between them does not.
PADDING = 72


class Workspaces:
    """Groups of ``count`` float64 arrays of ``size`` numbers each."""

    def __init__(self, size: int, count: int) -> None:
        self.size, self.count = size, count
        self._spare: list[list[NDArray[np.float64]]] = []

    @contextmanager
    def taken(self) -> Iterator[list[NDArray[np.float64]]]:
        """A group for the duration of the block; its content is arbitrary."""
        try:
            arrays = self._spare.pop()
        except IndexError:
            arrays = self._new()
        try:
            yield arrays
        finally:
            if not self._spare:
                self._spare.append(arrays)

    def _new(self) -> list[NDArray[np.float64]]:
        step = self.size + PADDING
        memory = np.empty(step * self.count)
        return [memory[k * step : k * step + self.size] for k in range(self.count)]
