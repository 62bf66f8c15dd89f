"""The routing policy: every node is an agent that splits its traffic over paths and learns online.

All agents share one small set of weights. An agent's state is a preference for each of its paths;
every tick it raises the preference of paths whose links are less used than others' (exponentiated
gradient on a norm of the links' use: Kivinen and Warmuth, 1997; for selfish agents: Boyan and
Littman, 1994), with momentum, and with a sharpness that grows as the network settles. How strong,
how soon and how sharp is what training finds (evolution strategies: Salimans et al., 2017). Steps
grow while the busiest link gets less busy and shrink when it does not (Vogl et al., 1988).
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.errors import FormatError
from qcluster.q_nvlink.rl.env import FlowEnv
from qcluster.q_nvlink.rl.paths import Paths

__all__ = ["Agents", "RoutePolicy", "Routed", "default_policy", "route"]

NAMES = ("gain", "momentum", "sharp_first", "sharp_last", "settle", "floor")
_SHIPPED = Path(__file__).parent / "weights" / "routes.safetensors"
_LEAST = 1e-3
_TICKS, _PATIENCE, _WORTH = 1000, 64, 0.002
_BOLDER, _MEEKER = 1.2, 0.5
_STEPS = (0.25, 16.0)  # what steps are multiplied with at least and at most


@dataclass(frozen=True, kw_only=True, eq=False)
class RoutePolicy:
    """Weights of the policy, (6,) unbounded numbers; ``gains`` are what they mean.

    ``episodes`` is how many episodes it was trained for.
    """

    weights: NDArray[np.float64]
    episodes: int = 0

    @functools.cached_property
    def gains(self) -> dict[str, float]:
        """Step size, momentum (0 to 1), first and last sharpness, ticks to settle, least share."""
        w = np.clip(self.weights, -12.0, 12.0)
        first = 1.5 + float(np.exp(w[2]))
        return {
            "gain": float(np.exp(w[0])),
            "momentum": float(1.0 / (1.0 + np.exp(-w[1]))),
            "sharp_first": first,
            "sharp_last": first + float(np.exp(w[3])),
            "settle": 1.0 + float(np.exp(w[4])),
            "floor": float(np.exp(min(w[5], -2.0))),
        }

    def save(self, path: str | Path) -> None:
        """Write ``path`` (safetensors) and ``path`` with .json beside it."""
        from safetensors.numpy import save_file

        save_file({"weights": np.ascontiguousarray(self.weights)}, str(path))
        about = {"kind": "nvlink-routes", "version": 1, "episodes": self.episodes, "names": NAMES}
        Path(f"{path}.json").write_text(json.dumps(about) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> RoutePolicy:
        """Read what ``save`` wrote. Raises FormatError naming the file."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            about = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
            weights = load_file(str(path))["weights"].astype(np.float64).reshape(len(NAMES))
            if about["kind"] != "nvlink-routes" or tuple(about["names"]) != NAMES:
                raise ValueError("of another kind or with other names")
            if not np.isfinite(weights).all():
                raise ValueError("holds a number that is not finite")
            return cls(weights=weights, episodes=int(about["episodes"]))
        except OSError as error:
            raise FormatError(error.strerror or "cannot be read", file=path) from None
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"is no saved routing policy: {error}", file=path) from None


@functools.cache
def default_policy() -> RoutePolicy:
    """The shipped policy, made by ``benchmarks/nvlink_parts/weights.py``."""
    return RoutePolicy.load(_SHIPPED)


class Agents:
    """The agents of all nodes at work on one set of paths.

    ``split`` (R,) is what they do now. ``start`` is where they begin; shortest paths by default.
    """

    def __init__(
        self, paths: Paths, policy: RoutePolicy, start: NDArray[np.float64] | None = None
    ) -> None:
        self.paths, self.policy = paths, policy
        self.split = paths.shortest() if start is None else start
        self._push = np.zeros(len(paths.owner))
        self._alive = np.ones(len(paths.links), dtype=np.bool_)
        self._age = 0
        self._stride, self._last = 1.0, np.inf
        # Among ways of equal use the one over wider links is the better: it slows others less.
        self._cost = np.log(float(paths.capacity.max()) / paths.capacity)

    def act(self, observation: NDArray[np.float64]) -> NDArray[np.float64]:
        """(R,) the next split, from the links' use and state (2, L)."""
        paths, gain = self.paths, self.policy.gains
        use, alive = observation[0], observation[1] > 0
        if (alive != self._alive).any():
            self._alive, self._age = alive, 0  # the network changed: explore again
            self._stride, self._last = 1.0, np.inf
        busiest = float(use.max())
        factor = _BOLDER if busiest <= self._last else _MEEKER
        self._stride, self._last = float(np.clip(self._stride * factor, *_STEPS)), busiest
        if busiest <= 0:
            return self.split
        grown = min(1.0, self._age / gain["settle"])
        sharp = gain["sharp_first"] * (gain["sharp_last"] / gain["sharp_first"]) ** grown
        # Logarithms of prices: sharpness makes powers that numbers do not hold.
        price = np.log(np.maximum(use / busiest, _LEAST)) * (sharp - 1.0) + self._cost
        along = np.append(price, -np.inf)[paths.steps]
        highest = along.max(axis=1)
        total = highest + np.log(np.exp(along - highest[:, None]).sum(axis=1))
        held = gain["momentum"]
        self._push = held * self._push - (1.0 - held) * total / (sharp - 1.0)
        open_now = np.append(alive, True)[paths.steps].all(axis=1)
        taste = (
            np.log(np.maximum(self.split, gain["floor"])) + gain["gain"] * self._stride * self._push
        )
        taste = np.where(open_now, taste, -1e300)
        best = np.maximum.reduceat(taste, paths.first)[paths.owner]
        weight = np.where(open_now, np.exp(np.minimum(taste - best, 0.0)), 0.0)
        sums = np.add.reduceat(weight, paths.first)
        self.split = weight / np.where(sums > 0, sums, 1.0)[paths.owner]
        self._age += 1
        return self.split


@dataclass(frozen=True)
class Routed:
    """The best split that was seen, (R,), the use of its busiest link (demand's unit over
    capacity's), that of shortest paths, and after how many ticks.
    """

    split: NDArray[np.float64]
    busiest: float
    shortest: float
    ticks: int


def route(
    paths: Paths,
    policy: RoutePolicy | None = None,
    *,
    start: NDArray[np.float64] | None = None,
    ticks: int = _TICKS,
    deadline: Deadline | None = None,
    background: NDArray[np.float64] | None = None,
) -> Routed:
    """Let the agents work on a simulated fabric and take the best that they ever did.

    Shortest paths, equally split or one a pair, are among what is compared: it is never worse.
    ``background`` (L,) is what other traffic puts on the links. It ends after ``ticks``, at the
    deadline, and when the last 64 ticks have won less than a five-hundredth.
    """
    other = np.zeros(len(paths.links)) if background is None else background

    def use(split: NDArray[np.float64]) -> NDArray[np.float64]:
        return (paths.loads(split) + other) / paths.capacity

    usual = paths.shortest()
    base = float(use(usual).max())
    best, busiest, seen = usual, base, 0
    starts = [paths.single()] + ([] if start is None else [start])
    for split in starts:
        found = float(use(split).max())
        if found < busiest * (1 - 1e-12):
            best, busiest = split, found
    agents = Agents(paths, policy or default_policy(), start if start is not None else best)
    alive = np.ones(len(paths.links))
    mark, since = busiest, 0
    for tick in range(1, ticks + 1):
        if (deadline is not None and deadline.expired) or tick - since > _PATIENCE:
            break
        split = agents.act(np.stack([use(agents.split), alive]))
        found = float(use(split).max())
        if found < busiest * (1 - 1e-12):
            best, busiest, seen = split, found, tick
        if busiest < mark * (1 - _WORTH):
            mark, since = busiest, tick
    return Routed(best, busiest, base, seen)


def episode(env: FlowEnv, policy: RoutePolicy) -> list[dict[str, float]]:
    """One episode: reward and busiest link's use, by tick."""
    seen, _ = env.reset()
    agents, rows, done = Agents(env.paths, policy), [], False
    while not done:
        seen, reward, _, done, info = env.step(agents.act(seen))
        agents.split = info["split"]
        rows.append({"reward": reward, "busiest": info["busiest"]})
    return rows
