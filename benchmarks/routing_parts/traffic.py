"""Fan-out on held-out tokens: co-activation placement and cover against EPLB with round robin."""

from __future__ import annotations

from typing import Any

import harness
import numpy as np

from qcluster.q_routing import dispatch, place_experts
from qcluster.q_routing.formats import count_picks
from qcluster.q_routing.traffic import crossing, fan_out
from routing_parts import loads, opponents

WINDOW = 1000


def run(quick: bool, fresh: bool) -> list[dict[str, Any]]:
    """Fitted on the first half of each task's tokens, scored on the second."""
    del fresh
    eplb = opponents.sglang()
    rows, results = [], []
    for name, fit, test in _parts(quick):
        for gpus in (8, 16):
            load = count_picks(fit, 64)
            ours = place_experts(load, num_slots=96, num_gpus=gpus, trace=fit)
            plain = place_experts(load, num_slots=96, num_gpus=gpus)
            forms = {
                "ours": np.concatenate([dispatch(ours, w) for w in _windows(test)]),
                "plain placement + cover": np.concatenate(
                    [dispatch(plain, w) for w in _windows(test)]
                ),
            }
            if eplb is not None:
                slots = eplb(load, 96, 1, 1, gpus, False)
                forms["EPLB + round robin"] = _round_robin(slots, test[: _whole(test)], gpus)
            base = forms.get("EPLB + round robin")
            for form, served in forms.items():
                result = {
                    "name": name,
                    "gpus": gpus,
                    "form": form,
                    "fan_out": fan_out(served),
                    "of_eplb": fan_out(served) / fan_out(base) if base is not None else None,
                    "crossing": crossing(served),
                    "balancedness": _balance([served], gpus),
                    "balancedness_per_window": _balance(_windows(served), gpus),
                }
                results.append(result)
                rows.append(tuple("-" if v is None else v for v in result.values()))
    harness.table(
        "Fan-out on tokens not used in fitting, 96 slots",
        ("tokens", "GPUs", "form", "fan-out", "of EPLB", "crossing", "balance", "per 1,000 tokens"),
        rows,
    )
    return results


def _parts(quick: bool) -> list[tuple[str, np.ndarray, np.ndarray]]:
    tasks = {task: loads.trace(task) for task in ("intent", "law")}
    if quick:
        tasks = {task: trace[:, ::4] for task, trace in tasks.items()}
    half = {task: len(trace) // 2 for task, trace in tasks.items()}
    found = [(t, tasks[t][: half[t]], tasks[t][half[t] :]) for t in tasks]
    mixed = [np.concatenate(parts) for parts in zip(*(f[1:] for f in found), strict=True)]
    rng = np.random.default_rng(0)
    return [*found, ("both", *(part[rng.permutation(len(part))] for part in mixed))]


def _whole(test: np.ndarray) -> int:
    return len(test) // WINDOW * WINDOW


def _windows(test: np.ndarray) -> list[np.ndarray]:
    return [test[a : a + WINDOW] for a in range(0, _whole(test), WINDOW)]


def _balance(windows: list[np.ndarray], gpus: int) -> float:
    mean = top = 0.0
    for window in windows:
        for layer in range(window.shape[1]):
            count = np.bincount(window[:, layer].ravel(), minlength=gpus)
            mean, top = mean + count.mean(), top + count.max()
    return mean / top


def _round_robin(slots: np.ndarray, test: np.ndarray, gpus: int) -> np.ndarray:
    owner = np.repeat(np.arange(gpus), slots.shape[1] // gpus)
    out = np.empty(test.shape, dtype=np.int64)
    for layer, row in enumerate(slots):
        homes = [owner[row == e] for e in range(64)]
        turn = np.zeros(64, dtype=np.int64)
        for i, picks in enumerate(test[:, layer]):
            for j, e in enumerate(picks):
                out[i, layer, j] = homes[e][turn[e] % len(homes[e])]
                turn[e] += 1
    return out
