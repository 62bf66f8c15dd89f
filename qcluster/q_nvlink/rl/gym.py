"""The routing environment as gymnasium knows environments: ``make("qcluster/Flow-v0")``.

Needs gymnasium (``pip install "qcluster-ray[gym]"``). Installed, the environment registers itself
when gymnasium is imported; ``register_envs`` does it by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError
from qcluster.q_nvlink.rl.env import FlowEnv
from qcluster.q_nvlink.rl.paths import find_paths
from qcluster.q_nvlink.rl.train import random_env

__all__ = ["ENV_ID", "GymFlow", "register_envs"]

ENV_ID = "qcluster/Flow-v0"
_MOST_USE = 1e6  # of a link, as a share of the fallback's busiest one

Array = NDArray[np.float64]


class GymFlow(gymnasium.Env[Array, Array]):
    """``FlowEnv`` with gymnasium's spaces, seeds and registry.

    Parameters
    ----------
    capacity, demand: (n, n) of links and between nodes; without them a random fabric.
    fabric_seed: which random fabric.
    ticks, events: as in ``FlowEnv``.

    Actions are (R,) weights of the paths from 0 to 1; observations (2, L) are in float64. Nothing
    is random after the fabric was drawn.

    Raises InputError for capacity without demand, and what ``FlowEnv`` raises.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - gymnasium's own type

    def __init__(
        self,
        *,
        capacity: ArrayLike | None = None,
        demand: ArrayLike | None = None,
        fabric_seed: int = 0,
        ticks: int = 64,
        events: Mapping[int, Sequence[int]] | None = None,
        render_mode: str | None = None,
    ) -> None:
        if (capacity is None) != (demand is None):
            raise InputError("wants both or neither", field="capacity, demand")
        if render_mode is not None:
            raise InputError(f"there is nothing to render, got '{render_mode}'")
        self.render_mode = None
        if capacity is not None:
            paths = find_paths(np.asarray(capacity, dtype=float), np.asarray(demand, dtype=float))
        else:
            paths = random_env(np.random.default_rng(fabric_seed)).paths
        self.flow = FlowEnv(paths, ticks=ticks, events=events)
        links, ways = len(paths.links), len(paths.owner)
        box = gymnasium.spaces.Box
        self.observation_space = box(0.0, _MOST_USE, (2, links), np.float64)
        self.action_space = box(0.0, 1.0, (ways,), np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """See ``FlowEnv.reset``."""
        super().reset(seed=seed)
        seen, info = self.flow.reset(seed=seed, options=options)
        return np.minimum(seen, _MOST_USE), info

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """See ``FlowEnv.step``."""
        seen, reward, ended, cut, info = self.flow.step(np.asarray(action, dtype=np.float64))
        return np.minimum(seen, _MOST_USE), reward, ended, cut, info


def register_envs() -> None:
    """Add the environment to gymnasium's registry, once."""
    if ENV_ID not in gymnasium.registry:
        gymnasium.register(id=ENV_ID, entry_point="qcluster.q_nvlink.rl.gym:GymFlow")
