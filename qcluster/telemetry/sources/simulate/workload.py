"""The jobs of a simulated cluster: phases, pace, and what they ask of chips and links.

A job is synchronous: it goes at the pace of its slowest clock and its thinnest link, stands still
while one of its GPUs is lost, and spins while its network is down.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from qcluster.telemetry.sources.simulate.experts import ExpertTraffic
from qcluster.telemetry.sources.simulate.racks import Rack, Training
from qcluster.telemetry.sources.simulate.traffic import Fabric, demand

__all__ = ["Workload"]

# A lost GPU ends the job; it restarts from its checkpoint this long after the GPU is back.
RESTART_S = 12.0
CHECKPOINT_ACTIVITY = 0.06
WAIT_ACTIVITY = 0.32
NOISE = 0.015


class Workload:
    """All jobs of a rack. ``held`` (gpus,) marks the GPUs that a job occupies."""

    def __init__(
        self,
        rack: Rack,
        fabric: Fabric,
        experts: ExpertTraffic,
        rng: np.random.Generator,
        period_s: float,
    ) -> None:
        self.rack, self._fabric, self._experts = rack, fabric, experts
        self._rng, self._dt = rng, period_s
        self._ready_at = dict.fromkeys((t.job.id for t in rack.jobs), 0.0)
        self.held = np.zeros(len(rack.topology.gpu_ids), dtype=bool)
        for training in rack.jobs:
            self.held[list(training.ranks)] = True

    def step(
        self,
        t: float,
        up: NDArray[np.bool_],
        speed: NDArray[np.float64],
        lanes: NDArray[np.float64],
        boost: NDArray[np.float64] | None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """The period that ends at ``t``.

        ``up`` and ``speed`` (gpus,) say which GPUs are there and their clocks as a share of the
        highest, ``lanes`` (links,) the share of lanes that is up; ``boost`` (layers, experts)
        multiplies popularity. Returns tokens of each expert (layers, experts), activity of each
        GPU (gpus,) and bytes a second from GPU to GPU (gpus, gpus).
        """
        n = len(up)
        share = self._experts.share(boost)
        load, activity, flow = np.zeros_like(share), np.zeros(n), np.zeros((n, n))
        connected = self._fabric.gpu_share(lanes)
        for training in self.rack.jobs:
            ranks = np.array(training.ranks)
            if not up[ranks].all():
                self._ready_at[training.job.id] = t + RESTART_S
            if t < self._ready_at[training.job.id]:
                continue
            computing, writing = self._phase(training, t)
            rate = (1 - writing) * max(0.3, float(speed[ranks].min()))
            picks = self.rack.picks_per_gpu_s * len(ranks) * rate
            work, wanted = demand(training, share * picks if training.mixture else None, rate)
            flow[np.ix_(ranks, ranks)] = wanted
            pace = self._pace(training, ranks, flow, lanes, float(connected[ranks].min()))
            flow[np.ix_(ranks, ranks)] = wanted * pace
            if training.mixture:
                load = self._experts.draw(share, int(picks * pace * self._dt))
            busy = computing * pace * training.activity + (1 - computing * pace) * WAIT_ACTIVITY
            wave = busy * work * (1 - writing) + CHECKPOINT_ACTIVITY * writing
            activity[ranks] = np.clip(wave * self._rng.normal(1.0, NOISE, len(ranks)), 0.0, 1.0)
        return load, activity, flow

    def _pace(
        self,
        training: Training,
        ranks: NDArray[np.int64],
        flow: NDArray[np.float64],
        lanes: NDArray[np.float64],
        connected: float,
    ) -> float:
        """Speed against a network that is whole and wide enough."""
        if connected <= 0:
            return 0.0
        # Exchanges take longer on fewer lanes; and no GPU sends more than its links carry.
        thinner = 1 / (training.compute + (1 - training.compute) / connected)
        return min(thinner, float(self._fabric.fit(flow, lanes)[ranks].min()))

    def _phase(self, job: Training, t: float) -> tuple[float, float]:
        """Share of the last period spent computing (of iterating) and writing a checkpoint."""
        computing = _mean(t, self._dt, job.iteration_s, job.compute)
        cycle = job.checkpoint_every_s + job.checkpoint_s
        iterating = _mean(t, self._dt, cycle, job.checkpoint_every_s / cycle)
        return computing, max(0.0, 1 - iterating)


def _mean(t: float, dt: float, period: float, duty: float) -> float:
    """Mean from t - dt to t of a wave that is 1 for the first ``duty`` of each period, else 0."""
    return (_square(t, period, duty) - _square(t - dt, period, duty)) / dt


def _square(t: float, period: float, duty: float) -> float:
    """Integral of that wave from 0 to t."""
    whole = math.floor(t / period)
    return whole * period * duty + min(t - whole * period, period * duty)
