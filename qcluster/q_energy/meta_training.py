"""Fitting the controller's networks: histories of costs in, weights out.

The LSTM learns to forecast the next window's relative costs, the policy to choose the pipeline that
costs least (REINFORCE with the mean cost as baseline; Williams 1992). Histories are generated, or
come from stored plans. Needs torch; nothing that runs live does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError
from qcluster.q_energy.meta import HIDDEN, PIPELINES, MetaNet, log_ratios

__all__ = ["fit_meta", "generated_history", "stored_histories"]

Floats = NDArray[np.float64]


def generated_history(seed: int, windows: int = 64) -> Floats:
    """(windows, pipelines) log cost ratios of a workload whose best pipeline changes at times.

    Each of a few regimes has its own mean costs; noise is correlated in time; QAOA's costs are
    unknown (NaN) in part of the windows.
    """
    rng = np.random.default_rng(seed)
    n = len(PIPELINES)
    regimes = rng.exponential(0.05, (3, n))
    regimes -= regimes.min(axis=1, keepdims=True)
    stay = rng.uniform(0.85, 0.99)
    regime, drift, rows = 0, np.zeros(n), []
    for _ in range(windows):
        regime = regime if rng.random() < stay else int(rng.integers(3))
        drift = 0.8 * drift + rng.normal(0.0, 0.01, n)
        cost = regimes[regime] + drift
        rows.append(cost - cost.min())
    history = np.array(rows)
    quantum = np.array(["qaoa" in name for name in PIPELINES])
    history[(rng.random(windows) < 0.3)[:, None] & quantum] = np.nan
    return history


def stored_histories(plans: Iterable[Any]) -> list[Floats]:
    """Histories by job category from stored energy plans (dicts or records), oldest first.

    The costs in a plan are those of the window before it, so they belong to that one's category.
    """
    found: dict[str, list[Floats]] = {}
    before: str | None = None
    for plan in plans:
        data = plan if isinstance(plan, dict) else plan.to_dict()
        if not data.get("choice"):
            continue
        category = data["choice"]["category"]
        if data.get("costs"):
            found.setdefault(before or category, []).append(log_ratios(data["costs"]))
        before = category
    return [np.array(rows) for rows in found.values() if len(rows) > 1]


def fit_meta(histories: Sequence[Floats], *, seed: int = 0, epochs: int = 300) -> MetaNet:
    """Networks fitted to histories (windows, pipelines) of log cost ratios, NaN where unknown.

    Raises InputError for no history, a wrong width, or one that is too short to learn from.
    """
    import torch

    data = [np.asarray(h, dtype=np.float64) for h in histories]
    if not data:
        raise InputError("wants at least one history", field="histories")
    for k, history in enumerate(data):
        if history.ndim != 2 or history.shape[1] != len(PIPELINES) or len(history) < 2:
            shape = f"(windows >= 2, {len(PIPELINES)})"
            raise InputError(f"wants shape {shape}, got {history.shape}", field=f"histories[{k}]")
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    n = len(PIPELINES)
    lstm: Any = torch.nn.LSTM(2 * n, HIDDEN, batch_first=True)
    cost, policy = torch.nn.Linear(HIDDEN, n), torch.nn.Linear(HIDDEN, n)
    torch.nn.init.zeros_(cost.weight)
    torch.nn.init.zeros_(cost.bias)
    weights = [p for layer in (lstm, cost, policy) for p in layer.parameters()]
    optimiser = torch.optim.Adam(weights, 1e-2)
    x, target, known = _padded(data)
    for _ in range(epochs):
        hidden, _state = lstm(x)
        forecast = cost(hidden)
        loss = (((forecast - target) * known) ** 2).sum() / known.sum()
        scores = policy(hidden).masked_fill(known < 0.5, -1e9)
        chosen = torch.distributions.Categorical(logits=scores)
        action = chosen.sample()  # type: ignore[no-untyped-call]
        paid = target.gather(2, action.unsqueeze(2)).squeeze(2)
        usable = known.any(dim=2)
        baseline = (target * known).sum(2) / known.sum(2).clamp(min=1.0)
        advantage = (paid - baseline).detach()
        log_prob = chosen.log_prob(action)  # type: ignore[no-untyped-call]
        loss = loss + 10.0 * (advantage * log_prob * usable).sum() / usable.sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.random.set_rng_state(state)
    arrays = {
        "w_in": lstm.weight_ih_l0, "w_hid": lstm.weight_hh_l0,
        "b": lstm.bias_ih_l0 + lstm.bias_hh_l0,
        "w_cost": cost.weight, "b_cost": cost.bias,
        "w_policy": policy.weight, "b_policy": policy.bias,
    }  # fmt: skip
    return MetaNet({k: a.detach().numpy().astype(np.float64) for k, a in arrays.items()})


def _padded(data: Sequence[Floats]) -> tuple[Any, Any, Any]:
    """Inputs (b, t, 2n), next costs and whether they are known (b, t, n), zeros behind the end."""
    import torch

    longest = max(len(h) for h in data) - 1
    n = len(PIPELINES)
    x = np.zeros((len(data), longest, 2 * n), np.float32)
    target = np.zeros((len(data), longest, n), np.float32)
    known = np.zeros_like(target)
    for k, history in enumerate(data):
        seen, t = np.isfinite(history), len(history) - 1
        filled = np.where(seen, history, 0.0)
        x[k, :t] = np.concatenate([filled[:-1], seen[:-1]], axis=1)
        target[k, :t], known[k, :t] = filled[1:], seen[1:]
    return torch.tensor(x), torch.tensor(target), torch.tensor(known)
