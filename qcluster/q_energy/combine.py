"""Forecasts mixed on line by what following each member would have saved so far.

ML-Poly (Gaillard, Stoltz and van Erven 2014): a member's weight is its prior times what following
it instead of the mixture would have saved, over the sum of squares of that. There is no learning
rate to choose, and a member that was better by little but always is not lost to one that was
better by much once. Savings are those of the error's slope at the mixture, so the mixture does
about as well in the long run as the best fixed blend of members, not only as the best one of them;
none that saves nothing has weight. Feedback comes late (Weinberger and Ordentlich 2002): a
forecast counts once its time has come, and savings are counted in horizons, not in readings, as
errors within one horizon are of one event.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Savings", "follow"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Savings:
    """What following each member instead of the mixture would have saved: ``total`` (members,)
    relative error summed over horizons, ``square`` (members,) its squares' sum, and the ``most``
    that any member saved or lost at one time.
    """

    total: Floats
    square: Floats
    most: float

    @classmethod
    def none(cls, members: int) -> Savings:
        """Before any forecast has come due."""
        return cls(np.zeros(members), np.zeros(members), 0.0)

    @classmethod
    def once(cls, saved: Floats, step: int) -> Savings:
        """At one time, ``saved`` (members,), by forecasts ``step`` steps ahead."""
        return cls(saved / step, saved**2 / step, float(np.abs(saved).max()))

    def plus(self, other: Savings) -> Savings:
        """These and the ``other``."""
        most = max(self.most, other.most)
        return Savings(self.total + other.total, self.square + other.square, most)

    def less(self, start: Savings) -> Savings:
        """Those since ``start``."""
        return Savings(self.total - start.total, self.square - start.square, self.most)

    def times(self, share: float) -> Savings:
        """As if a ``share`` of the time had been seen."""
        return Savings(share * self.total, share * self.square, self.most)

    def weights(self, prior: Floats) -> Floats:
        """(members,) that sum to 1; ``prior`` (members,) where no member would have saved."""
        gain = prior * np.maximum(self.total, 0.0)
        if not gain.any():
            return np.asarray(prior / prior.sum())
        gain = gain / (self.most**2 + self.square)
        return np.asarray(gain / gain.sum())

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """For a safetensors file, under ``name``."""
        most = np.full(len(self.total), self.most)
        return {name: np.stack([self.total, self.square, most])}

    @classmethod
    def of(cls, arrays: dict[str, NDArray[Any]], name: str) -> Savings:
        """Back from ``arrays``."""
        total, square, most = arrays[name]
        return cls(total, square, float(most[0]))


def follow(
    members: Floats,
    run: Floats,
    step: int,
    prior: Floats,
    start: Savings | None = None,
    skip: int = 0,
) -> tuple[Floats, Savings]:
    """(times, nodes) the mixture of ``members``, and the savings at the run's end.

    Parameters
    ----------
    members: (members, times, nodes) forecasts, each of ``step`` steps after its time.
    run: (times, nodes) readings. Those up to a time decide its weights, none later.
    prior: (members,) weights while nothing is known, above 0.
    start: savings of earlier runs; None for none.
    skip: forecasts made in the first ``skip`` steps are not held against anyone.
    """
    savings = start or Savings.none(len(members))
    weight = savings.weights(prior)
    scale = np.maximum(run, 1.0)
    mixed = np.empty(run.shape)
    for t in range(len(run)):
        made = t - step
        if made >= skip:
            slope = np.sign(mixed[made] - run[t]) / scale[t]
            saved = slope * (mixed[made] - members[:, made])
            # One stop can err by ten times what is left of the power: it counts as all of it.
            share = np.clip(saved, -1.0, 1.0).mean(axis=1)
            savings = savings.plus(Savings.once(share, step))
            weight = savings.weights(prior)
        mixed[t] = weight @ members[:, t]
    return mixed, savings
