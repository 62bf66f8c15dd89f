"""Which experts the tokens of a mixture-of-experts job want: skewed, drifting, switching domain.

Popularity within a layer follows Zipf's law with an exponent of 0.3 to 0.5 (the busiest expert of
64 then gets 2 to 7 times the mean, as measured routers do). Each domain of text has its own order
of experts, nearly uncorrelated with the others'; the mixture leans to one domain, drifts slowly
(an Ornstein-Uhlenbeck walk in the logarithm) and now and then moves on to another.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["ExpertTraffic"]

DOMAINS = 4
# Seconds: how long a domain lasts on average, how fast the mixture follows, how long drift lasts.
DWELL_S, FOLLOW_S, DRIFT_S = 180.0, 10.0, 300.0
DRIFT = 0.25


class ExpertTraffic:
    """Popularity of every expert of every layer, moving in time.

    ``step(dt)`` moves it; ``share`` (layers, experts) sums to 1 in each layer.
    """

    def __init__(self, layers: int, experts: int, rng: np.random.Generator) -> None:
        self.layers, self.experts, self._rng = layers, experts, rng
        # A token picks k different experts, so none gets more than every k-th pick.
        self.top_k = max(1, min(8, experts // 8))
        zipf = np.arange(1, experts + 1) ** -rng.uniform(0.3, 0.5, (DOMAINS, layers, 1))
        self._domains = np.log(rng.permuted(zipf / zipf.sum(axis=2, keepdims=True), axis=2))
        self._drift = rng.normal(0.0, DRIFT, (layers, experts))
        self._weights = np.full(DOMAINS, 0.02)
        self.domain = 0
        self._weights[0] = 1.0 - 0.02 * (DOMAINS - 1)

    def step(self, dt: float) -> None:
        """Move ``dt`` seconds on."""
        rng = self._rng
        if rng.random() < -np.expm1(-dt / DWELL_S):
            self.domain = int((self.domain + rng.integers(1, DOMAINS)) % DOMAINS)
        target = np.full(DOMAINS, 0.02)
        target[self.domain] = 1.0 - 0.02 * (DOMAINS - 1)
        self._weights += (target - self._weights) * -np.expm1(-dt / FOLLOW_S)
        keep = np.exp(-dt / DRIFT_S)
        noise = rng.normal(0.0, DRIFT * np.sqrt(1 - keep**2), self._drift.shape)
        self._drift = keep * self._drift + noise

    def share(self, boost: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Share of a layer's tokens that each expert gets, (layers, experts).

        ``boost`` multiplies popularity before it is normalised.
        """
        mixed = np.einsum("d,dle->le", self._weights, np.exp(self._domains)) * np.exp(self._drift)
        if boost is not None:
            mixed = mixed * boost
        return _capped(mixed / mixed.sum(axis=1, keepdims=True), 1.0 / self.top_k)

    def draw(self, share: NDArray[np.float64], picks: int) -> NDArray[np.float64]:
        """Tokens for each expert, (layers, experts): ``picks`` drawn in each layer."""
        return self._rng.multinomial(picks, share).astype(np.float64)


def _capped(share: NDArray[np.float64], cap: float) -> NDArray[np.float64]:
    """Rows that sum to 1 with no entry above ``cap``; what is cut off goes to the others."""
    full = np.zeros(share.shape, dtype=bool)
    while (share > cap * (1 + 1e-12)).any():
        full |= share > cap
        rest = np.where(full, 0.0, share)
        room = 1.0 - cap * full.sum(axis=1, keepdims=True)
        share = np.where(full, cap, rest * room / rest.sum(axis=1, keepdims=True))
    return share
