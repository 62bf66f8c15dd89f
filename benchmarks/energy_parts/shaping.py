"""Peak and 2 s ramp of eight replayed jobs, shaped by start shifts and caps.

One node each of two GPT-3 runs, of three LoRA and of three UNet3D runs (MLPerf power), looped to
one hour, starts up to 15 s later for free. The opponent is the sum unshifted and uncapped. Speed
under a cap is that of the room's model, so the delay is a prediction. Draws take other runs and
other loop offsets, as the luck of the offsets decides how high the unshaped sum goes.
"""

from __future__ import annotations

from typing import Any

import harness
import numpy as np

from energy_parts.forecast import PERIOD_S, load_runs
from qcluster.q_energy import peak_bound, shape_power

_TIMES = 1800
_SHIFT_S = 15.0
_AHEAD_S = 30.0
_DELAY = 0.01
_JOBS = (("gpt3_64node_run0", 1), ("gpt3_64node_run1", 1), ("llama2lora_8node", 3),
         ("single_unet3d", 3))  # fmt: skip
# Shares of the unshaped sum's peak and ramp that are asked for, seconds known ahead.
_CASES = {
    "shifts only": (np.inf, np.inf, 0.0),
    "peak -15 %": (0.85, np.inf, 0.0),
    "ramp -50 %, known ahead": (np.inf, 0.5, _AHEAD_S),
    "ramp -50 %, present only": (np.inf, 0.5, 0.0),
    "both, known ahead": (0.85, 0.5, _AHEAD_S),
}


def run(quick: bool, fresh: bool) -> dict[str, Any]:
    """Means over draws; nothing is cached, it takes a minute."""
    del fresh
    pools = [(load_runs([name]), count) for name, count in _JOBS]
    draws = [_draw(pools, seed) for seed in range(2 if quick else 8)]
    results = []
    for name, (peak, ramp, ahead) in _CASES.items():
        rows = [_shaped(traces, peak, ramp, ahead) for traces in draws]
        mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        results.append({"case": name, **mean, "worst_peak": max(row["peak"] for row in rows),
                        "worst_ramp": max(row["ramp"] for row in rows)})  # fmt: skip
    lowest = [_lowest(traces) for traces in draws]
    results.append({"case": "ramp -50 %, peak at 1 % delay",
                    **{key: float(np.mean([row[key] for row in lowest])) for key in lowest[0]},
                    "worst_peak": max(row["peak"] for row in lowest),
                    "worst_ramp": max(row["ramp"] for row in lowest)})  # fmt: skip
    keys = ("case", "peak", "worst_peak", "ramp", "worst_ramp", "delay")
    harness.table(
        f"Eight jobs of one node, {len(draws)} draws, against the sum unshaped",
        ("asked for", "peak", "worst", "2 s ramp", "worst", "mean delay"),
        [[row[key] for key in keys] for row in results],
    )
    bounds = {}
    for name, delay in (("shifts alone", 0.0), ("caps at 1 % mean delay", _DELAY)):
        found = [
            peak_bound(traces, max_shift=int(_SHIFT_S / PERIOD_S), delay=delay)
            / float(traces.sum(axis=0).max())
            for traces in draws
        ]
        bounds[name] = {"mean": float(np.mean(found)), "least": float(np.min(found))}
    harness.table(
        "No shaping has a lower peak (share of the unshaped sum's)",
        ("with", "mean over draws", "least"),
        [(name, row["mean"], row["least"]) for name, row in bounds.items()],
    )
    return {"rows": results, "bounds": bounds}


def _lowest(traces: np.ndarray) -> dict[str, float]:
    """The lowest peak whose mean delay stays within 1 %, the ramp halved."""
    low, high = 0.7, 1.0
    best = _shaped(traces, high, 0.5, _AHEAD_S)
    for _ in range(7):
        middle = (low + high) / 2
        found = _shaped(traces, middle, 0.5, _AHEAD_S)
        if found["delay"] <= _DELAY:
            high, best = middle, found
        else:
            low = middle
    return best


def _shaped(traces: np.ndarray, peak: float, ramp: float, ahead: float) -> dict[str, float]:
    total = traces.sum(axis=0)
    found = shape_power(
        traces, period_s=PERIOD_S, max_shift_s=_SHIFT_S, ahead_s=ahead,
        peak_w=peak * float(total.max()), ramp_w=ramp * float(np.abs(np.diff(total)).max()),
    )  # fmt: skip
    return {
        "peak": found.peak_w / found.before["peak_w"],
        "ramp": found.ramp_w / found.before["ramp_w"],
        "delay": float(found.delay.mean()),
    }


def _draw(pools: list[tuple[list[np.ndarray], int]], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = []
    for runs, count in pools:
        for index in rng.permutation(len(runs))[:count]:
            node = runs[index][:, int(rng.integers(runs[index].shape[1]))]
            start = int(rng.integers(len(node)))
            rows.append(np.resize(np.roll(node, -start), _TIMES))
    return np.stack(rows)
