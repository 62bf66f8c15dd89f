"""Which pipeline plans the next window: an LSTM that tracks errors, a policy, a safe choice.

Each window every pipeline whose proposal is known is charged its cost in hindsight. Three members
judge from that, by job category:

- exponential weights over past costs (Hedge; Freund and Schapire 1997);
- an LSTM that follows the pipelines' relative costs and forecasts the next ones;
- a policy network on the LSTM's state, trained by policy gradient (Williams 1992).

The learned members are asked only as long as they cost no more than Hedge did: a budget of regret
holds them to it. What is chosen is always a pipeline that is allowed, and before anything is known
of a category, the safe one. It knows no power: costs are numbers, categories are names.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError
from qcluster.q_energy.saved_net import read_net, write_net
from qcluster.record import Record

__all__ = ["PIPELINES", "SAFE", "Category", "Choice", "MetaNet", "MetaState", "choose", "observe"]

Floats = NDArray[np.float64]

PIPELINES = ("independent", "classical", "gnn", "qaoa", "gnn+qaoa")
"""Every node alone · shared budget by the physical model · by learned curves · with QAOA on the
window at the peak of dependent jobs · both."""
SAFE = "classical"
HIDDEN = 12
# Costs are compared as logarithms of their ratio to the best; beyond this they are just bad.
_WORST = 3.0
_CLOSE = 1e-3
_EPSILON = 1e-9
# Windows after which an old cost weighs half in Hedge: workloads change.
_HALF_LIFE = 50.0
_RATE = 2.0
# What the learned members may have cost more than Hedge, in units of the mean log ratio.
_ALLOWANCE = 0.05
_ARRAYS = ("w_in", "w_hid", "b", "w_cost", "b_cost", "w_policy", "b_policy")


@dataclass(frozen=True, kw_only=True, eq=False)
class Category(Record):
    """What is known of one job category.

    ``loss`` (pipelines,) discounted sums of log cost ratios, ``weight`` the same of ones where a
    pipeline's cost was known; ``wins`` counts windows in which each was cheapest. ``hidden`` and
    ``cell`` (hidden,) are the LSTM's state. ``learned_excess`` is what following the learned
    members would have cost beyond following Hedge, discounted.
    """

    loss: NDArray[np.float64]
    weight: NDArray[np.float64]
    wins: NDArray[np.int64]
    hidden: NDArray[np.float64]
    cell: NDArray[np.float64]
    learned_excess: float = 0.0
    windows: int = 0

    @classmethod
    def fresh(cls) -> Category:
        """Nothing known yet."""
        n = len(PIPELINES)
        return cls(
            loss=np.zeros(n), weight=np.zeros(n), wins=np.zeros(n, np.int64),
            hidden=np.zeros(HIDDEN), cell=np.zeros(HIDDEN),
        )  # fmt: skip

    @property
    def mean_loss(self) -> Floats:
        """(pipelines,) discounted mean log cost ratio; NaN where never known."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.weight > 0, self.loss / self.weight, np.nan)


@dataclass(frozen=True, kw_only=True, eq=False)
class MetaState(Record):
    """What the controller remembers, by job category."""

    categories: dict[str, Category] = field(default_factory=dict)

    def table(self) -> dict[str, dict[str, float | None]]:
        """Category to pipeline to mean cost over the best one's: which wins where, and by what.

        None where a pipeline's cost was never known.
        """
        out: dict[str, dict[str, float | None]] = {}
        for name, known in self.categories.items():
            ratios = np.exp(known.mean_loss)
            out[name] = {
                arm: float(r) if math.isfinite(r) else None
                for arm, r in zip(PIPELINES, ratios, strict=True)
            }
        return out


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice(Record):
    """A pipeline for the next window, who chose it and why.

    ``expected`` maps allowed pipelines to their expected cost over the cheapest one's.
    """

    pipeline: str
    category: str
    by: str
    reason: str
    expected: dict[str, float]


@dataclass(frozen=True, eq=False)
class MetaNet:
    """LSTM (one layer), a cost head and a policy head, evaluated in NumPy."""

    weights: Mapping[str, Floats]

    def step(self, hidden: Floats, cell: Floats, x: Floats) -> tuple[Floats, Floats]:
        """One step of the LSTM (Hochreiter and Schmidhuber 1997), torch's gate order i f g o."""
        w = self.weights
        gates = w["w_in"] @ x + w["w_hid"] @ hidden + w["b"]
        i, f, g, o = np.split(gates, 4)
        cell = _sigmoid(f) * cell + _sigmoid(i) * np.tanh(g)
        return _sigmoid(o) * np.tanh(cell), cell

    def forecast(self, hidden: Floats) -> Floats:
        """(pipelines,) log cost ratios expected next."""
        return self.weights["w_cost"] @ hidden + self.weights["b_cost"]

    def policy(self, hidden: Floats) -> Floats:
        """(pipelines,) scores; the highest allowed one is the policy's choice."""
        return self.weights["w_policy"] @ hidden + self.weights["b_policy"]

    def save(self, path: str | Path) -> None:
        """Write ``path`` (safetensors) and ``path`` with .json beside it."""
        about = {"kind": "energy-meta", "version": 1, "pipelines": list(PIPELINES)}
        write_net(path, {name: self.weights[name] for name in _ARRAYS}, about)

    @classmethod
    def load(cls, path: str | Path) -> MetaNet:
        """Back from ``save``. Raises FormatError naming the file and what is wrong with it."""
        want = {"kind": "energy-meta", "pipelines": list(PIPELINES)}
        weights, _ = read_net(path, _ARRAYS, want)
        return cls(weights)


@functools.lru_cache(maxsize=1)
def default_meta() -> MetaNet:
    """The weights that come with the package (trained by ``benchmarks/energy_defaults``)."""
    return MetaNet.load(Path(__file__).parent / "defaults" / "meta_net.safetensors")


def log_ratios(costs: Mapping[str, float]) -> Floats:
    """(pipelines,) log of each known cost over the least, at most 3; NaN where unknown.

    Raises InputError for an unknown pipeline and for costs that are not finite and at least 0.
    """
    out = np.full(len(PIPELINES), np.nan)
    for name, cost in costs.items():
        if name not in PIPELINES:
            raise InputError(f"there are {', '.join(PIPELINES)}; got '{name}'", field="costs")
        if not math.isfinite(cost) or cost < 0:
            raise InputError(
                f"wants a finite cost of at least 0, got {cost}", field=f"costs.{name}"
            )
        out[PIPELINES.index(name)] = math.log(cost + _EPSILON)
    return np.minimum(out - np.nanmin(out), _WORST) if costs else out


def observe(
    state: MetaState, category: str, costs: Mapping[str, float], net: MetaNet | None = None
) -> MetaState:
    """The state after a window in which the pipelines would have cost this much."""
    ratios = log_ratios(costs)
    if not np.isfinite(ratios).any():
        return state
    net = net or default_meta()
    before = state.categories.get(category) or Category.fresh()
    known = np.isfinite(ratios)
    fade = 0.5 ** (1.0 / _HALF_LIFE)
    filled = np.where(known, ratios, 0.0)
    hidden, cell = net.step(before.hidden, before.cell, np.concatenate([filled, known]))
    excess = before.learned_excess
    if before.windows:
        arms = np.flatnonzero(known)
        excess = fade * excess + float(
            ratios[_learned(net, before, arms)] - ratios[_hedge(before, arms)]
        )
    wins = before.wins.copy()
    wins[int(np.nanargmin(ratios))] += 1
    after = Category(
        loss=np.where(known, fade * before.loss + filled, before.loss),
        weight=np.where(known, fade * before.weight + 1.0, before.weight),
        wins=wins, hidden=hidden, cell=cell, learned_excess=excess, windows=before.windows + 1,
    )  # fmt: skip
    return MetaState(categories={**state.categories, category: after})


def choose(
    state: MetaState, category: str, allowed: Sequence[str], net: MetaNet | None = None
) -> Choice:
    """The pipeline for the next window of this category, among those allowed.

    Raises InputError when nothing is allowed or a name is unknown.
    """
    if unknown := [name for name in allowed if name not in PIPELINES]:
        raise InputError(f"there are {', '.join(PIPELINES)}; got '{unknown[0]}'", field="allowed")
    if not allowed:
        raise InputError("wants at least one pipeline", field="allowed")
    net = net or default_meta()
    arms = np.array([PIPELINES.index(name) for name in allowed])
    known = state.categories.get(category)
    if known is None or not known.windows:
        safe = SAFE if SAFE in allowed else allowed[0]
        return Choice(
            pipeline=safe, category=category, by="safe",
            reason=f"nothing is known of '{category}' yet", expected={},
        )  # fmt: skip
    scores = _expected(net, known)
    expected = {PIPELINES[a]: float(np.exp(scores[a])) for a in arms}
    if known.learned_excess > _ALLOWANCE:
        pick, by = _hedge(known, arms), "hedge"
        reason = f"the learned members cost {known.learned_excess:.2g} more than past costs did"
    else:
        pick, by = _learned(net, known, arms), "lstm+policy"
        reason = f"expected {scores[pick]:+.3f} in log cost over the cheapest"
    return Choice(
        pipeline=PIPELINES[pick], category=category, by=by, reason=reason, expected=expected
    )


def _expected(net: MetaNet, known: Category) -> Floats:
    """(pipelines,) expected log ratio: past mean corrected half-way towards the LSTM's forecast.

    A pipeline never seen is expected to cost what the safe one does, so that it is tried.
    """
    past = known.mean_loss
    past = np.where(np.isfinite(past), past, np.nan_to_num(past[PIPELINES.index(SAFE)]))
    return (past + net.forecast(known.hidden)) / 2.0


def _learned(net: MetaNet, known: Category, arms: NDArray[np.int64]) -> int:
    """The policy's choice where forecasts cannot tell, else the cheapest forecast."""
    scores = _expected(net, known)[arms]
    close = arms[scores <= scores.min() + _CLOSE]
    return int(close[int(np.argmax(net.policy(known.hidden)[close]))])


def _hedge(known: Category, arms: NDArray[np.int64]) -> int:
    """The pipeline of greatest exponential weight: the least discounted loss."""
    loss = np.where(known.weight > 0, known.loss / np.maximum(known.weight, 1e-12), 0.0)
    return int(arms[int(np.argmin(_RATE * loss[arms]))])


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -60.0, 60.0))))
