"""Ray Data as the loop reads them: rows pass by in order, and a window of them is held.

A window is shuffled within itself (``GlobalOrder``), so memory is two windows and a block however
long the data are. Every worker reads the whole stream and keeps its share, so the order of samples
does not depend on how many workers there are; a resumed run reads past what it has seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qcluster.errors import InputError, SolverFailed

__all__ = ["Stream"]

Block = dict[str, NDArray[Any]]

BLOCK_ROWS = 256


class Stream:
    """Rows of a Ray data set by number, as long as the numbers move on.

    Parameters
    ----------
    dataset: a ``ray.data.Dataset``; its blocks are read in order.
    field: what an error calls it.

    ``rows_pulled`` counts rows that were read, ``most_held`` the most that were held at a time.
    Raises InputError where there are no rows.
    """

    labels_a_sample: int | None = None
    _blocks: Iterator[Block] | None
    _held: deque[tuple[int, Block]]
    _first: int
    _end: int
    _floor: int

    def __init__(self, dataset: Any, field: str = "train_dataset") -> None:
        dataset.context.execution_options.preserve_order = True
        self.dataset, self.field = dataset, field
        self.size = int(dataset.count())
        if self.size < 1:
            raise InputError("there are no samples", field=field)
        self.rows_pulled = self.most_held = 0
        self._forget()

    def __len__(self) -> int:
        return self.size

    def __getstate__(self) -> dict[str, Any]:
        """Without the place in the stream: another process starts where it needs to."""
        kept = {k: v for k, v in self.__dict__.items() if not k.startswith("_")}
        return {**kept, "rows_pulled": 0, "most_held": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def batch(self, indices: NDArray[np.int64]) -> dict[str, Tensor]:
        """Rows of every column, in the order of ``indices``."""
        if int(indices.min()) < self._first:
            self._forget()
        self._floor = min(self._floor, int(indices.min()))
        while self._end <= int(indices.max()):
            self._pull()
        found: dict[str, list[Any]] = {}
        for index in indices.tolist():
            start, block = next((s, b) for s, b in self._held if index < s + _rows(b))
            for name, column in block.items():
                found.setdefault(name, []).append(column[index - start])
        return {name: torch.from_numpy(np.stack(values)) for name, values in found.items()}

    def passed(self, index: int) -> None:
        """Rows before ``index`` are not asked for again in this epoch."""
        if index < self._first:
            self._forget()
        self._floor = index
        self._drop()

    def close(self) -> None:
        """Let go of the stream; reading goes on from its beginning.

        One that is not read to its end has threads behind it that read ahead.
        """
        self._forget()

    def _drop(self) -> None:
        while self._held and self._held[0][0] + _rows(self._held[0][1]) <= self._floor:
            start, block = self._held.popleft()
            self._first = start + _rows(block)

    def _pull(self) -> None:
        if self._blocks is None:
            read = self.dataset.iter_batches(batch_size=BLOCK_ROWS, batch_format="numpy",
                                             prefetch_batches=1)  # fmt: skip
            self._blocks = iter(read)
        block = next(self._blocks, None)
        if block is None:
            raise SolverFailed(
                f"{self.field} gave {self._end} rows where it had counted {self.size}: a data set "
                "must give the same rows each time it is read"
            )
        block = {name: _dense(column) for name, column in block.items()}
        self._held.append((self._end, block))
        self._end += _rows(block)
        self.rows_pulled += _rows(block)
        self._drop()
        self.most_held = max(self.most_held, self._end - self._first)

    def _forget(self) -> None:
        close = getattr(getattr(self, "_blocks", None), "close", None)
        if close is not None:
            close()
        self._blocks = None
        self._held = deque()
        self._first = self._end = self._floor = 0


def _rows(block: Block) -> int:
    return len(next(iter(block.values())))


def _dense(column: Any) -> NDArray[Any]:
    array = np.asarray(column)
    return np.stack(list(array)) if array.dtype == object else array.copy()
