"""Loads that the parts share: Zipf loads of a large model, windows of real router traces."""

from __future__ import annotations

import harness
import numpy as np

from qcluster.q_routing.formats import count_picks, read_trace, windows_of

FOLDER = harness.DATA / "routing"


def zipf(s: float, layers: int = 58, experts: int = 256, seed: int = 0) -> np.ndarray:
    """(layers, experts) multinomial of 2e6 over k^-s exp(.2 N(0, 1)), shuffled in each layer."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(layers):
        p = np.arange(1, experts + 1) ** -s * np.exp(0.2 * rng.standard_normal(experts))
        rng.shuffle(p)
        rows.append(rng.multinomial(2_000_000, p / p.sum()))
    return np.array(rows)


def trace(task: str) -> np.ndarray:
    """(tokens, 26, 6) router picks of a real task."""
    return read_trace(FOLDER / f"dsv2lite_{task}.npz")


def real(task: str) -> np.ndarray:
    """(26, 64) load of a real task."""
    return count_picks(trace(task), 64)


def stationary(task: str, tokens: int = 1000) -> np.ndarray:
    """(windows, 26, 64) consecutive windows of one task."""
    return windows_of(trace(task), tokens, 64)


def alternating(tokens: int = 1000, run: int = 3000) -> np.ndarray:
    """(windows, 26, 64): the two tasks in turn, ``run`` tokens each."""
    parts = [trace(task) for task in ("intent", "law")]
    runs = min(len(part) for part in parts) // run
    order = [part[i * run : (i + 1) * run] for i in range(runs) for part in parts]
    return windows_of(np.concatenate(order), tokens, 64)


def counted(slots: np.ndarray, load: np.ndarray, gpus: int) -> tuple[float, int]:
    """Balancedness with equal split, and copies that share a GPU with another of their expert."""
    size = slots.shape[1]
    owner = np.repeat(np.arange(gpus), size // gpus)
    mean = top = 0.0
    doubled = 0
    for row, w in zip(slots, load, strict=True):
        share = w / np.maximum(np.bincount(row, minlength=len(w)), 1)
        loads = np.bincount(owner, weights=share[row], minlength=gpus)
        mean, top = mean + loads.mean(), top + loads.max()
        doubled += size - len({(g, e) for g, e in zip(owner.tolist(), row.tolist(), strict=True)})
    return mean / top, doubled
