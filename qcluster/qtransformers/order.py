"""Which sample is trained when: one global order that does not know how many workers there are.

Step by step the order hands out a global batch; workers divide it. So a run that goes on with
fewer or more workers sees the same samples in the same steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError

__all__ = ["GlobalOrder", "share", "step_seed"]


class GlobalOrder:
    """Global batches of sample indices.

    Parameters
    ----------
    size: number of samples.
    batch_size: samples a step; the last step of an epoch may have fewer.
    seed: of the shuffle; each epoch has a permutation of its own.
    shuffle: False keeps the data's order.

    Raises InputError for an empty data set.
    """

    def __init__(self, size: int, batch_size: int, *, seed: int = 0, shuffle: bool = True) -> None:
        if size < 1:
            raise InputError("there are no samples to train on", field="train_dataset")
        self.size, self.batch_size = size, min(batch_size, size)
        self.seed, self.shuffle = seed, shuffle
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    @property
    def steps_per_epoch(self) -> int:
        """Steps that see every sample once."""
        return -(-self.size // self.batch_size)

    def batch(self, samples_seen: int) -> NDArray[np.int64]:
        """The samples of the step that starts after ``samples_seen`` samples, over all epochs."""
        epoch, within = divmod(samples_seen, self.size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._permutation(epoch)
        return self._order[within : within + self.batch_size]

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(self.size, dtype=np.int64)
        return np.random.default_rng([self.seed, epoch]).permutation(self.size)


def share(batch: NDArray[np.int64], rank: int, world: int) -> NDArray[np.int64]:
    """The part of a global batch that worker ``rank`` of ``world`` takes: a contiguous piece.

    Pieces differ by at most one sample; joined in order of rank they are the batch.
    """
    least, extra = divmod(len(batch), world)
    start = rank * least + min(rank, extra)
    return batch[start : start + least + (rank < extra)]


def step_seed(*parts: int | str | Sequence[int]) -> int:
    """A seed of 63 bits that depends on all parts: run, step and worker."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
