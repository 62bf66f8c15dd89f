"""GraphSAGE over tasks or GPUs to energy curves: speed and power at each cap.

Two layers of mean aggregation (Hamilton, Ying and Leskovec 2017) and a head that corrects the
physical model of ``curves`` where measured sweeps differ from it: speed in log-odds, power as a
share of what the cap allows. Speeds rise with the cap by construction, and a network without
weights gives the physical model. Nodes whose features lie outside what it was trained on get the
physical model as well, and are named. Fitted by ``curve_training``; evaluated here in NumPy alone.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import FormatError
from qcluster.q_energy.curves import EXPONENT, IDLE_SHARE, speed
from qcluster.q_energy.saved_net import read_net, write_net
from qcluster.q_energy.task_graph import FEATURES, TaskGraph
from qcluster.record import Record

__all__ = ["CAPS", "CurveNet", "EnergyCurves", "default_net", "fitted_units"]

Floats = NDArray[np.float64]

CAPS: Floats = np.linspace(0.3, 1.0, 8)
"""Caps at which curves are predicted, as shares of the highest limit."""
MEMORY = 0.3
# Features beyond these many standard deviations say no more than these do.
CLAMP = 2.0
# How far outside the range of training a feature may lie.
_MARGIN = 0.02
# Rests, as shares of what is known of it, and memory-bound shares that curves are fitted among.
_RESTS, _MEMORIES = np.linspace(0.2, 1.0, 9), np.linspace(0.0, 0.9, 19)
_ARRAYS = ("w_self_0", "w_near_0", "b_0", "w_self_1", "w_near_1", "b_1", "w_out", "b_out")


@dataclass(frozen=True, kw_only=True, eq=False)
class EnergyCurves(Record):
    """What each node would do under each cap.

    ``caps`` (k,) as shares of the highest limit; ``speed`` and ``power`` (n, k) as shares of full
    speed and of the highest limit; ``learned`` (n,) whether the network answered (else the
    physical model).
    """

    caps: NDArray[np.float64]
    speed: NDArray[np.float64]
    power: NDArray[np.float64]
    learned: NDArray[np.bool_]

    @property
    def energy(self) -> Floats:
        """(n, k) energy of the same work as a share of that at the highest limit."""
        per_work = self.power / np.maximum(self.speed, 1e-9)
        return np.asarray(per_work / per_work[:, -1:])


@dataclass(frozen=True, eq=False)
class CurveNet:
    """Weights, the features' mean and spread, and what was seen in training.

    ``seen`` (sweeps, 2, features): lowest and highest features of each sweep it was fitted to.
    """

    weights: Mapping[str, Floats]
    mean: Floats
    spread: Floats
    seen: Floats

    def predict(self, graph: TaskGraph) -> EnergyCurves:
        """Curves of every node; the order of nodes and edges does not matter."""
        x = np.clip((graph.features - self.mean) / self.spread, -CLAMP, CLAMP)
        for layer in ("0", "1"):
            near = graph.neighbour_mean(x) @ self.weights[f"w_near_{layer}"].T
            x = np.tanh(x @ self.weights[f"w_self_{layer}"].T + near + self.weights[f"b_{layer}"])
        out = x @ self.weights["w_out"].T + self.weights["b_out"]
        odds, room = physical(graph.features)
        k = len(CAPS)
        fast = np.maximum.accumulate(1.0 / (1.0 + np.exp(-(odds + out[:, :k]))), axis=1)
        power = room * np.exp(-np.logaddexp(0.0, out[:, k:] - 3.0))
        learned = np.zeros(graph.n, bool)
        for low, high in self.seen:
            inside = (graph.features >= low - _MARGIN) & (graph.features <= high + _MARGIN)
            learned |= inside.all(axis=1)
        plain = 1.0 / (1.0 + np.exp(-odds))
        return EnergyCurves(
            caps=CAPS,
            speed=np.where(learned[:, None], fast, plain),
            power=np.where(learned[:, None], power, room),
            learned=learned,
        )

    def save(self, path: str | Path) -> None:
        """Write ``path`` (safetensors) and ``path`` with .json beside it."""
        about = {
            "kind": "energy-gnn", "version": 1, "features": list(FEATURES),
            "mean": self.mean.tolist(), "spread": self.spread.tolist(),
            "seen": self.seen.tolist(),
        }  # fmt: skip
        write_net(path, {name: self.weights[name] for name in _ARRAYS}, about)

    @classmethod
    def load(cls, path: str | Path) -> CurveNet:
        """Back from ``save``. Raises FormatError naming the file and what is wrong with it."""
        want = {"kind": "energy-gnn", "features": list(FEATURES)}
        weights, about = read_net(path, _ARRAYS, want)
        try:
            rows = [np.array(about[name], dtype=np.float64) for name in ("mean", "spread", "seen")]
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"lacks the features' figures: {error}", file=path) from None
        return cls(weights, *rows)


def physical(features: Floats) -> tuple[Floats, Floats]:
    """(n, k) log-odds of the physical model's speed, and power that the cap leaves, as shares."""
    share = np.clip(features[:, :1], 1e-3, None)
    # A unit at rest draws less than its lowest limit and less than what it draws at work.
    idle = np.minimum(IDLE_SHARE, 0.9 * share)
    fast = speed(CAPS[None], share, idle, MEMORY)
    fast = np.clip(fast, 0.02, 0.995)
    return np.log(fast / (1.0 - fast)), np.minimum(CAPS[None], share)


@functools.lru_cache(maxsize=1)
def default_net() -> CurveNet:
    """The weights that come with the package (trained by ``benchmarks/energy_defaults``)."""
    return CurveNet.load(Path(__file__).parent / "defaults" / "curve_net.safetensors")


def fitted_units(
    curves: EnergyCurves, demand_w: Floats, max_w: Floats, idle_w: Floats, memory: Floats
) -> tuple[Floats, Floats]:
    """(idle_w, memory) (n,) whose physical curve lies nearest to each learned one.

    The planner's problem, bound and check are stated for the physical family, which is concave;
    where nothing was learned the values stay.
    """
    from qcluster.q_energy import _kernels

    out_idle, out_memory = idle_w.astype(np.float64), memory.astype(np.float64)
    rows = np.flatnonzero(curves.learned)
    _kernels.nearest_curves(
        rows, curves.caps, max_w, demand_w, idle_w, curves.speed, _RESTS, _MEMORIES,
        1.0 / EXPONENT, out_idle, out_memory,
    )  # fmt: skip
    return out_idle, out_memory
