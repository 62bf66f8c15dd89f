"""Clock, power and temperature of GPUs under load.

Dynamic power is activity x f x V(f)^2 with voltage linear in frequency; the governor takes the
highest clock of the grid whose power stays within the limit; temperature follows power with one
time constant. A GPU that no job holds drops to its lowest clock; one that is held stays awake.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcluster.telemetry.sources.simulate.racks import GpuModel

__all__ = ["Chips"]

# Voltage at clock zero as a share of that at the highest clock.
V0 = 0.55
# Full activity at full clock would draw more than the limit: that is why GPUs throttle.
OVERDRIVE = 1.12
IDLE_ACTIVITY = 0.01


class Chips:
    """State of all GPUs of one model, arrays of shape (gpus,)."""

    def __init__(self, model: GpuModel, gpus: int, rng: np.random.Generator) -> None:
        self.model = model
        self.grid = np.arange(model.min_mhz, model.max_mhz + 1, model.step_mhz, dtype=np.float64)
        x = self.grid / model.max_mhz
        self._shape = x * (V0 + (1 - V0) * x) ** 2
        self._rise = (x - x[0]) / (1 - x[0])
        # No two pieces of silicon leak alike.
        self._spread = rng.normal(1.0, 0.02, gpus)
        self.limit_w = np.full(gpus, float(model.max_w))
        self.clock_mhz = np.full(gpus, self.grid[0])
        self.held_s = np.zeros(gpus)
        self.power_w = np.full(gpus, float(model.idle_w))
        self.temperature_c = np.full(gpus, model.inlet_c + model.idle_w * model.ohm_c_per_w)

    def step(self, activity: NDArray[np.float64], held: NDArray[np.bool_], dt: float) -> None:
        """Move ``dt`` seconds on under ``activity`` (gpus,), shares of peak in [0, 1]."""
        model = self.model
        swing = (OVERDRIVE * model.max_w - model.awake_w) * self._spread
        base = model.idle_w + (model.awake_w - model.idle_w) * self._rise
        table = base[None, :] + (swing * activity)[:, None] * self._shape[None, :]
        fits = np.count_nonzero(table <= self.limit_w[:, None], axis=1) - 1
        asleep = (activity < IDLE_ACTIVITY) & ~held
        chosen = np.where(asleep, 0, np.maximum(fits, 0))
        self.held_s += np.where(~asleep & (chosen < len(self.grid) - 1), dt, 0.0)
        self.clock_mhz = self.grid[chosen]
        self.power_w = table[np.arange(len(activity)), chosen]
        target = model.inlet_c + self.power_w * model.ohm_c_per_w
        self.temperature_c += (target - self.temperature_c) * -np.expm1(-dt / model.tau_s)

    @property
    def speed(self) -> NDArray[np.float64]:
        """Clock as a share of the highest, (gpus,)."""
        return self.clock_mhz / self.model.max_mhz
