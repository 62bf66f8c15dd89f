"""A fabric as an environment for routing agents: a fluid simulator with gymnasium's interface.

One tick: every agent (a node) says how it splits each of its demands over that demand's paths; the
simulator says how busy every link is. Flows are fluid, as in traffic engineering: no packets, no
losses; a link whose use is above 1 takes that much longer. gymnasium itself is not needed; with it
installed the spaces are its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import Infeasible, InputError
from qcluster.q_nvlink.rl.paths import Paths

__all__ = ["Box", "FlowEnv"]

_HOP = 0.01  # latency of the fastest hop, as a share of the step on shortest paths


@dataclass(frozen=True)
class Box:
    """What gymnasium's ``spaces.Box`` says of an array, where gymnasium is not installed."""

    low: float
    high: float
    shape: tuple[int, ...]
    dtype: Any = np.float64

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is an array of this space."""
        value = np.asarray(x)
        inside = value.shape == self.shape and np.isfinite(value).all()
        return bool(inside and (value >= self.low).all() and (value <= self.high).all())


def _box(low: float, high: float, shape: tuple[int, ...]) -> Any:
    try:
        spaces = importlib.import_module("gymnasium.spaces")
    except ImportError:
        return Box(low, high, shape)
    return spaces.Box(low, high, shape, np.float64)


class FlowEnv:
    """``reset`` and ``step`` as in gymnasium's ``Env``.

    Parameters
    ----------
    paths: demands and the ways they may take.
    ticks: length of an episode.
    events: by tick, the links (indices) that are lost from then on.

    Observation: (2, L) the use of every link as a share of the fallback's busiest one (equal-cost
    shortest paths on the whole fabric), and 1 for links that are up. Action: (R,) weights of the
    paths, at least 0; the environment drops lost paths and makes each demand's weights sum to 1.
    An agent's reward is its bandwidth over its latency, as a ratio to what it gets on shortest
    paths: bandwidth is its volume over the time that a step takes (that of the busiest link, as
    ranks wait for each other), latency the mean of its paths' delays and queues. The step's reward
    is the mean over the agents.
    """

    metadata: Mapping[str, Any] = {"render_modes": []}

    def __init__(
        self,
        paths: Paths,
        *,
        ticks: int = 64,
        events: Mapping[int, Sequence[int]] | None = None,
    ) -> None:
        if not len(paths.pairs):
            raise InputError("wants at least one demand", field="paths")
        if ticks < 1:
            raise InputError(f"wants at least 1, got {ticks}", field="ticks")
        self.paths, self.ticks = paths, ticks
        self.events = {int(tick): [int(e) for e in lost] for tick, lost in (events or {}).items()}
        links = len(paths.links)
        if any(not 0 <= e < links for lost in self.events.values() for e in lost):
            raise InputError(f"wants links 0 to {links - 1}", field="events")
        self.observation_space = _box(0.0, np.inf, (2, links))
        self.action_space = _box(0.0, np.inf, (len(paths.owner),))
        self.agents, self._agent = np.unique(paths.pairs[:, 0], return_inverse=True)
        fallback = paths.shortest()
        self.unit = float((paths.loads(fallback) / paths.capacity).max())
        """Time of the busiest link on shortest paths, in demand's unit over capacity's."""
        self.alive = np.ones(links, dtype=np.bool_)
        self._tick = 0
        self._usual = self._agents_rewards(fallback, self._use(fallback))

    def reset(
        self,
        *,
        seed: int | None = None,  # noqa: ARG002 - nothing here is random
        options: Mapping[str, Any] | None = None,  # noqa: ARG002
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """The whole fabric on shortest paths."""
        self.alive[:] = True
        self._tick = 0
        self._lose(self.events.get(0, ()))
        use = self._use(self.clean(self.paths.shortest()))
        return self._seen(use), {"busiest": float(use.max())}

    def step(
        self, action: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """One tick. Info: ``busiest`` link's use, ``rewards`` by agent, the ``split`` that ran.

        Raises InputError for an action of wrong shape, negative or not finite.
        """
        weights = np.asarray(action, dtype=np.float64)
        if not self.action_space.contains(weights):
            raise InputError(f"wants {len(self.paths.owner)} weights, at least 0", field="action")
        self._tick += 1
        self._lose(self.events.get(self._tick, ()))
        split = self.clean(weights)
        use = self._use(split)
        rewards = self._agents_rewards(split, use) / self._usual
        info = {"busiest": float(use.max()), "rewards": rewards, "split": split}
        return self._seen(use), float(rewards.mean()), False, self._tick >= self.ticks, info

    def close(self) -> None:
        """Nothing to free."""

    def open_paths(self) -> NDArray[np.bool_]:
        """(R,) which paths have no lost link."""
        return np.asarray(np.append(self.alive, True)[self.paths.steps].all(axis=1))

    def clean(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """(R,) shares over the paths that are up, each demand's summing to 1.

        Raises Infeasible when a demand has lost all its paths.
        """
        paths = self.paths
        open_now = self.open_paths()
        total = np.add.reduceat(np.where(open_now, weights, 0.0), paths.first)
        if (total <= 0).any():  # a demand whose weights are all on lost paths: the shortest open
            ways = np.add.reduceat(open_now.astype(np.float64), paths.first)
            if (ways == 0).any():
                a, b = paths.pairs[int(np.argmin(ways))]
                raise Infeasible(f"no path is left between nodes {a} and {b}", field="paths")
            empty = (total <= 0)[paths.owner]
            weights = np.where(empty, 1.0 / paths.hops**4, weights)
            total = np.add.reduceat(np.where(open_now, weights, 0.0), paths.first)
        return np.where(open_now, weights, 0.0) / total[paths.owner]

    def _lose(self, links: Sequence[int]) -> None:
        self.alive[list(links)] = False

    def _use(self, split: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.paths.loads(split) / (self.paths.capacity * self.unit)

    def _seen(self, use: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack([use, self.alive.astype(np.float64)])

    def _agents_rewards(
        self, split: NDArray[np.float64], use: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """(agents,) volume over time and latency; time and queues in ``unit``."""
        paths = self.paths
        along = np.append(use, 0.0)[paths.steps].sum(axis=1)
        delay = paths.delay / max(float(paths.delay.min()), 1e-12)
        # A byte waits half of a link's busy time on average; a hop alone costs little beside it.
        wait = np.add.reduceat(split * (_HOP * delay + along / 2), paths.first)
        volume = np.bincount(self._agent, paths.demand, minlength=len(self.agents))
        latency = np.bincount(self._agent, paths.demand * wait, minlength=len(self.agents)) / volume
        return np.asarray(volume / max(float(use.max()), 1e-9) / np.maximum(latency, 1e-9))
