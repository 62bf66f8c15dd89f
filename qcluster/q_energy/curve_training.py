"""Fitting the curve network: measured sweeps and generated task graphs in, weights out.

Measured sweeps teach how real GPUs differ from the physical model; generated graphs teach what a
sweep does not show, that work which waits for its neighbours' data does not follow the clock.
Needs torch and torch-geometric; nothing that runs live does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError
from qcluster.q_energy.curve_net import CAPS, CLAMP, MEMORY, CurveNet, physical
from qcluster.q_energy.curves import IDLE_SHARE, speed
from qcluster.q_energy.task_graph import FEATURES, TaskGraph, cost_feature

__all__ = ["Sweep", "fit_curve_net", "generated"]

Floats = NDArray[np.float64]

_HIDDEN = 16


@dataclass(frozen=True, eq=False)
class Sweep:
    """A graph with what was measured of some of its nodes.

    ``node`` (m,), ``cap`` (m,) as a share of the highest limit, ``speed`` and ``power`` (m,) as
    shares of full speed and of the highest limit.
    """

    graph: TaskGraph
    node: NDArray[np.int64]
    cap: Floats
    speed: Floats
    power: Floats

    def __post_init__(self) -> None:
        rows = {len(self.node), len(self.cap), len(self.speed), len(self.power)}
        if len(rows) != 1 or not len(self.node):
            raise InputError("wants as many caps, speeds and powers as nodes", field="sweep")
        for name in ("cap", "speed", "power"):
            values = np.asarray(getattr(self, name))
            if not np.isfinite(values).all() or (values <= 0).any() or (values > 1.5).any():
                raise InputError("wants shares above 0", field=f"sweep.{name}")


def generated(seed: int, tasks: int = 40) -> Sweep:
    """A random task graph under the physical model: sending and receiving does not follow the
    clock, whoever's data it is.
    """
    rng = np.random.default_rng(seed)
    features = np.zeros((tasks, len(FEATURES)))
    features[:, 0] = rng.uniform(0.3, 1.0, tasks)
    features[:, 1] = rng.uniform(0.2, 0.5)
    features[:, 2] = cost_feature(10 ** rng.uniform(0, 4.5, tasks))
    features[:, 3] = np.where(rng.random(tasks) < 0.5, 0.0, rng.beta(1.0, 4.0, tasks))
    to = rng.integers(1, tasks, 2 * tasks)
    edges = np.unique(np.stack([(rng.random(2 * tasks) * to).astype(np.int64), to]), axis=1)
    graph = TaskGraph(features, edges)
    moved = np.clip(features[:, 3] + graph.neighbour_mean(features[:, 3:])[:, 0], 0.0, 0.9)
    memory = MEMORY + (1.0 - MEMORY) * moved
    share = features[:, :1]
    fast = speed(CAPS[None], share, np.minimum(IDLE_SHARE, 0.9 * share), memory[:, None])
    node = np.repeat(np.arange(tasks), len(CAPS))
    power = np.minimum(CAPS[None], share)
    return Sweep(graph, node, np.tile(CAPS, tasks), np.maximum(fast, 1e-3).ravel(), power.ravel())


def fit_curve_net(
    sweeps: Sequence[Sweep], *, seed: int = 0, epochs: int = 400, rate: float = 3e-3
) -> CurveNet:
    """A network that reproduces the sweeps; each counts the same, whatever its size.

    Mean absolute error of speed and power, AdamW with strong decay (the head starts as the
    physical model, and decays to it where data are few). The same seed gives the same weights.
    """
    import torch
    from torch_geometric.nn import SAGEConv

    if not sweeps:
        raise InputError("wants at least one sweep", field="sweeps")
    stacked = np.concatenate([s.graph.features for s in sweeps])
    mean, spread = stacked.mean(axis=0), stacked.std(axis=0) + 1e-6
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    first = SAGEConv(len(FEATURES), _HIDDEN)
    second, head = SAGEConv(_HIDDEN, _HIDDEN), torch.nn.Linear(_HIDDEN, 2 * len(CAPS))
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    drop = torch.nn.Dropout(0.1)
    weights = [p for layer in (first, second, head) for p in layer.parameters()]
    optimiser = torch.optim.AdamW(weights, rate, weight_decay=0.3)
    x, edges, odds, room, mix, node, fast, power, weight = _tensors(sweeps, mean, spread)
    k = len(CAPS)
    for _ in range(epochs):
        h = drop(torch.tanh(first(x, edges)))
        h = drop(torch.tanh(second(h, edges)))
        out = head(h)
        rising = torch.cummax(torch.sigmoid(odds + out[:, :k]), 1).values
        drawn = room * torch.exp(-torch.nn.functional.softplus(out[:, k:] - 3.0))
        error = ((mix * rising[node]).sum(1) - fast).abs()
        error = error + ((mix * drawn[node]).sum(1) - power).abs()
        optimiser.zero_grad()
        (error * weight).sum().backward()
        optimiser.step()
    torch.random.set_rng_state(generator_state)
    arrays = {
        "w_near_0": first.lin_l.weight, "b_0": first.lin_l.bias, "w_self_0": first.lin_r.weight,
        "w_near_1": second.lin_l.weight, "b_1": second.lin_l.bias,
        "w_self_1": second.lin_r.weight, "w_out": head.weight, "b_out": head.bias,
    }  # fmt: skip
    plain = {name: a.detach().numpy().astype(np.float64) for name, a in arrays.items()}
    boxes = [(s.graph.features.min(axis=0), s.graph.features.max(axis=0)) for s in sweeps]
    seen = np.array(boxes)
    return CurveNet(plain, mean, spread, seen)


def _tensors(sweeps: Sequence[Sweep], mean: Floats, spread: Floats) -> tuple[Any, ...]:
    """All sweeps as one graph of several parts."""
    import torch

    def real(values: Floats) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32)

    def all_of(name: str) -> Floats:
        return np.concatenate([np.asarray(getattr(sweep, name)) for sweep in sweeps])

    first = np.cumsum([0, *(sweep.graph.n for sweep in sweeps)])
    features = np.concatenate([sweep.graph.features for sweep in sweeps])
    edges = [sweep.graph.edges + start for sweep, start in zip(sweeps, first, strict=False)]
    node = [sweep.node + start for sweep, start in zip(sweeps, first, strict=False)]
    odds, room = physical(features)
    cap = all_of("cap")
    left = np.clip(np.searchsorted(CAPS, cap) - 1, 0, len(CAPS) - 2)
    part = np.clip((cap - CAPS[left]) / (CAPS[left + 1] - CAPS[left]), 0.0, 1.0)
    mix = np.zeros((len(cap), len(CAPS)))
    rows = np.arange(len(mix))
    mix[rows, left], mix[rows, left + 1] = 1.0 - part, part
    weight = np.concatenate([np.full(len(sweep.cap), 1.0 / len(sweep.cap)) for sweep in sweeps])
    return (
        real(np.clip((features - mean) / spread, -CLAMP, CLAMP)),
        torch.tensor(np.concatenate(edges, axis=1)),
        real(odds),
        real(room),
        real(mix),
        torch.tensor(np.concatenate(node)),
        real(all_of("speed")),
        real(all_of("power")),
        real(weight),
    )
