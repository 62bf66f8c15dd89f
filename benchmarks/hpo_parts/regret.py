"""Normalised regret, its geometric mean, and paired comparisons."""

from __future__ import annotations

import ast
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import harness
import numpy as np

FLOOR = 0.01
ROOM = Path(harness.HERE).parent / "qcluster" / "q_hpo"


def ours_version(*roots: str) -> str:
    """Hash of the room's modules that ``roots`` import, themselves included ("gp/search"; without
    any the process's): our own results are kept as long as these stay the same.
    """
    digest = hashlib.sha256()
    for path in _imported([Path(f"{root}.py") for root in roots or ("gp/search",)]):
        digest.update((ROOM / path).read_bytes())
    return digest.hexdigest()[:16]


def strategy_version(settings: Mapping[str, Any]) -> str:
    """The same of what a strategy of these settings runs."""
    name = settings["name"]
    if name == "vqc":
        return ours_version(f"vqc/{'trained' if settings.get('mode') else 'search'}")
    return ours_version({"gp": "gp/search"}.get(name, name))


def _imported(paths: list[Path]) -> list[Path]:
    """The room's files that ``paths`` import, to any depth."""
    found: set[Path] = set()
    while paths:
        path = paths.pop()
        if path in found:
            continue
        found.add(path)
        for node in ast.walk(ast.parse((ROOM / path).read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = node.module.removeprefix("qcluster.q_hpo.").replace(".", "/")
                tails = [module, *(f"{module}/{name.name}" for name in node.names)]
                paths += [Path(f"{tail}.py") for tail in tails if (ROOM / f"{tail}.py").exists()]
    return sorted(found)


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
