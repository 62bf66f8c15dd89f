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
    window: shuffle so many neighbours among each other only, for data that pass by in order.

    Raises InputError for an empty data set.
    """

    def __init__(
        self, size: int, batch_size: int, *, seed: int = 0, shuffle: bool = True,
        window: int | None = None,
    ) -> None:  # fmt: skip
        if size < 1:
            raise InputError("there are no samples to train on", field="train_dataset")
        self.size, self.batch_size = size, min(batch_size, size)
        self.seed, self.shuffle = seed, shuffle
        self.window = size if window is None else min(window, size)
        self._known: dict[tuple[int, int], NDArray[np.int64]] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Steps that see every sample once."""
        return -(-self.size // self.batch_size)

    def batch(self, samples_seen: int) -> NDArray[np.int64]:
        """The samples of the step that starts after ``samples_seen`` samples, over all epochs."""
        epoch, within = divmod(samples_seen, self.size)
        end = min(within + self.batch_size, self.size)
        pieces = []
        for number in range(within // self.window, (end - 1) // self.window + 1):
            start = number * self.window
            pieces.append(self._shuffled(epoch, number)[max(0, within - start) : end - start])
        return np.concatenate(pieces)

    def first_of_window(self, samples_seen: int) -> int:
        """The lowest sample that this step or a later one of its epoch can ask for."""
        return samples_seen % self.size // self.window * self.window

    def _shuffled(self, epoch: int, number: int) -> NDArray[np.int64]:
        found = self._known.get((epoch, number))
        if found is None:
            start = number * self.window
            found = np.arange(start, min(start + self.window, self.size), dtype=np.int64)
            if self.shuffle:
                # One window over everything draws as if there were no windows.
                seed = (
                    [self.seed, epoch] if self.window == self.size else [self.seed, epoch, number]
                )
                found = start + np.random.default_rng(seed).permutation(len(found))
            self._known = {
                k: v for k, v in self._known.items() if k[0] == epoch and k[1] >= number - 1
            }
            self._known[epoch, number] = found
        return found


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
