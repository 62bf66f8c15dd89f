"""Is one system as good as another? Paired tests on the same items.

McNemar's exact test (1947) and a paired bootstrap (Efron and Tibshirani 1993) for a difference,
Holm's correction (1979) over tasks, and a one-sided test of non-inferiority. A single task with
few items cannot carry a claim of equality, and then the verdict is ``cannot tell``: not finding a
difference is no proof that there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError
from qcluster.qtransformers.evaluation.report import Comparison, Verdict

__all__ = [
    "FEWEST_ITEMS",
    "compare",
    "holm",
    "mcnemar",
    "non_inferiority_power",
    "paired_bootstrap",
    "pool",
]

FEWEST_ITEMS = 1000
"""Items below which a single task supports no claim of non-inferiority."""
POWER = 0.8

Metric = Callable[[ArrayLike, ArrayLike], float]


def mcnemar(won: int, lost: int) -> float:
    """Two-sided exact p-value: chance of so uneven a split of ``won + lost`` fair coins."""
    n = won + lost
    if n == 0:
        return 1.0
    from scipy.stats import binom

    return float(min(1.0, 2 * binom.cdf(min(won, lost), n, 0.5)))


def paired_bootstrap(
    new: ArrayLike,
    old: ArrayLike,
    true: ArrayLike,
    metric: Metric,
    *,
    groups: Sequence[str] | None = None,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of ``metric(new) - metric(old)`` over resampled items; items of a group go together.

    Percentile interval of ``level``.
    """
    new, old, true = (np.asarray(x) for x in (new, old, true))
    members = _members(groups, len(true))
    generator = np.random.default_rng(seed)
    values = np.empty(draws)
    for draw in range(draws):
        picked = generator.integers(len(members), size=len(members))
        rows = np.concatenate([members[i] for i in picked])
        values[draw] = metric(new[rows], true[rows]) - metric(old[rows], true[rows])
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values over a family of tests; the chance of any false alarm is kept."""
    adjusted, running = {}, 0.0
    ordered = sorted(p_values.items(), key=lambda pair: pair[1])
    for index, (name, value) in enumerate(ordered):
        running = max(running, min(1.0, value * (len(ordered) - index)))
        adjusted[name] = running
    return adjusted


def non_inferiority_power(discordant: float, items: int, margin: float) -> float:
    """Chance to show non-inferiority at the 5 % level where both are equally good.

    ``discordant``: share of items on which exactly one of them is right.
    """
    from scipy.stats import norm

    if discordant <= 0:
        # Nobody has disagreed yet: what three disagreements in as many items would mean.
        discordant = 3.0 / max(items, 1)
    return float(norm.cdf(margin / math.sqrt(discordant / items) - norm.ppf(0.95)))


def compare(
    new: ArrayLike,
    old: ArrayLike,
    true: ArrayLike,
    *,
    name: str,
    metric_name: str,
    metric: Metric,
    margin: float = 0.015,
    groups: Sequence[str] | None = None,
    fewest_items: int = FEWEST_ITEMS,
    seed: int = 0,
) -> Comparison:
    """Compare two systems' labels on the same items.

    Non-inferior means: the one-sided 95 % bound of the accuracy lost is below ``margin``. Raises
    InputError for rows of unequal length, no items, or a margin outside (0, 1).
    """
    if not 0 < margin < 1:
        raise InputError(f"wanted a share in (0, 1), came {margin}", field="margin")
    new, old, true = (np.asarray(x) for x in (new, old, true))
    if not len(true) or len(new) != len(true) or len(old) != len(true):
        raise InputError("wanted as many predictions as items, and one at least", field=name)
    gain = (new == true).astype(np.int64) - (old == true).astype(np.int64)
    won, lost = int((gain > 0).sum()), int((gain < 0).sum())
    bound = _lower_bound(gain, groups)
    power = non_inferiority_power((won + lost) / len(true), len(true), margin)
    low, high = paired_bootstrap(new, old, true, metric, groups=groups, seed=seed)
    return Comparison(
        name=name, items=len(true), metric=metric_name,
        new=metric(new, true), old=metric(old, true), difference_low=low, difference_high=high,
        won=won, lost=lost, accuracy_difference=float(gain.mean()), accuracy_bound=bound,
        margin=margin, p_value=mcnemar(won, lost), adjusted_p_value=None, power=power,
        verdict=_verdict(bound, margin, power, len(true), fewest_items, won, lost),
    )  # fmt: skip


def pool(parts: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike, Sequence[str]]]) -> tuple[
    NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], list[str]
]:  # fmt: skip
    """Join tasks: predictions, labels and groups of all items, tasks told apart by name."""
    columns = [
        np.concatenate([np.asarray(part[i]) for part in parts.values()]).astype(np.int64)
        for i in range(3)
    ]
    groups = [f"{name}/{group}" for name, part in parts.items() for group in part[3]]
    return columns[0], columns[1], columns[2], groups


def _verdict(
    bound: float, margin: float, power: float, items: int, fewest: int, won: int, lost: int
) -> Verdict:
    if won < lost and mcnemar(won, lost) < 0.05 and bound <= -margin:
        return "worse"
    if items < fewest or (power < POWER and bound <= -margin):
        return "cannot tell"
    return "non-inferior" if bound > -margin else "not shown"


def _lower_bound(gain: NDArray[np.int64], groups: Sequence[str] | None) -> float:
    """One-sided 95 % bound of the mean gain, groups counted as one observation each.

    One item is given away, which keeps the error below 5 % where the normal distribution fits
    badly, and a difference of at least one item is assumed in the variance, so that complete
    agreement on a few items proves little.
    """
    from scipy.stats import norm

    members = _members(groups, len(gain))
    sums = np.array([gain[rows].sum() for rows in members], dtype=np.float64)
    mean = sums.sum() / len(gain)
    sizes = np.array([len(rows) for rows in members])
    spread = float(np.square(sums - mean * sizes).sum())
    given = norm.ppf(0.95) * math.sqrt(max(spread, 1.0)) + 1.0
    return float(mean - given / len(gain))


def _members(groups: Sequence[str] | None, items: int) -> list[NDArray[np.int64]]:
    if groups is None:
        return [np.array([i]) for i in range(items)]
    found: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        found.setdefault(group, []).append(index)
    return [np.array(rows) for rows in found.values()]
