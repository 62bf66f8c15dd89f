"""Normalised regret, its geometric mean, and paired comparisons."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
import numpy as np

FLOOR = 0.01


def ours_version() -> str:
    """Hash of the room's source: our own results are kept as long as it stays the same."""
    root = Path(harness.HERE).parent / "qcluster" / "q_hpo"
    digest = hashlib.sha256()
    inside = [*root.glob("gp/*.py"), *root.glob("vqc/*.py")]
    inside += [root / f"{name}.py" for name in ("space", "parameter", "strategy", "hybrid")]
    for path in sorted(inside):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def normalised(values: Sequence[float | None], optimum: float, random: float) -> float:
    """Regret of the best of ``values`` over the median regret of random search, floored."""
    found = [value for value in values if value is not None]
    regret = (min(found) - optimum) / random if found and random > 0 else 1.0
    return max(regret, FLOOR)


def geometric(regrets: Sequence[float]) -> float:
    """Geometric mean."""
    return math.exp(float(np.mean(np.log(regrets))))


def compare(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Ratio of geometric means, its 95 % bootstrap bound from above, wins and losses, and p of a
    paired Wilcoxon test on logarithms.
    """
    from scipy.stats import wilcoxon

    gap = np.log(np.asarray(ours)) - np.log(np.asarray(theirs))
    p = float(wilcoxon(gap).pvalue) if np.any(gap != 0) else 1.0
    draws = np.random.default_rng(0).integers(len(gap), size=(2000, len(gap)))
    return {
        "ratio": math.exp(float(gap.mean())),
        "bound": math.exp(float(np.quantile(gap[draws].mean(axis=1), 0.95))),
        "wins": int((gap < -1e-9).sum()),
        "losses": int((gap > 1e-9).sum()),
        "p": p,
        "pairs": len(gap),
    }
