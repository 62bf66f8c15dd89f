"""How a share of bytes is spent: how many clusters, how many bits, what is left for exact rows.

The figures were set on queries, keys and values of a trained model (benchmarks/attention.py); they
move the error, never the budget or the bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcluster.q_attention.clusters import STATS_BYTES, cluster_keys, contiguous, summarise
from qcluster.q_attention.lowbit import MAX_BITS
from qcluster.q_attention.store import Store, write

if TYPE_CHECKING:
    from qcluster.q_attention.problem import AttentionProblem

__all__ = ["Plan", "build", "plan_certified", "plan_levels"]

LEAST_CERTIFIED_BITS = 3.0
"""Bits a number below which scores are too noisy for bounds worth having."""


@dataclass(frozen=True)
class Plan:
    """``per_cluster`` keys a cluster (0: no clusters), means in ``mean_bits`` a number; level 1 in
    ``bits`` a row of keys and of values; dithered or to the nearest. ``warnings`` say what the
    budget did not allow.
    """

    per_cluster: int
    mean_bits: int
    bits: tuple[int, int]
    dither: bool
    warnings: tuple[str, ...] = ()


def plan_levels(n: int, d: int, dv: int, share: float) -> Plan:
    """Spend a share of 16-bit bytes on clusters, low-bit copies and exact rows."""
    numbers = d + dv
    whole = 2.0 * n * numbers
    mean_bits = 4 if share < 0.06 else 5
    scales = 8.0 * numbers
    mean = numbers * mean_bits / 8 + STATS_BYTES
    # Some 40 % on means: fewer and wider clusters where there is little to spend.
    spent = 0.4 * (share * whole - scales)
    opened = 3 * (n * mean / max(spent, mean)) * (numbers * 3 / 8)
    if 1.5 * spent < opened:
        spent *= 2.25  # what is left would not pay for three clusters at level 1
    affordable = max(1.0, spent / mean)
    per_cluster = max(8, round(n / affordable))
    most = (share * whole - scales) / mean
    warnings: tuple[str, ...] = ()
    if most < 1:
        least = (scales + mean) / whole
        warnings = (f"a share of {share:g} is less than the least that can be read, {least:.3g}",)
    if share < 0.1:
        each = (3, 3)
    elif share < 0.24:
        each = (4, 4)
    else:
        each = (6, 5)
    return Plan(min(per_cluster, n), mean_bits, (each[0] * d, each[1] * dv), False, warnings)


def plan_certified(n: int, d: int, dv: int, share: float) -> Plan:
    """Spend it so that every row can be bounded: all of level 1 is read, the rest is exact rows."""
    numbers = d + dv
    scales = 4.0 * numbers / (2.0 * n * numbers)
    spare = max(0.02, 0.2 * (share - 0.2))
    bits = 16 * (share - spare - scales)
    warnings: tuple[str, ...] = ()
    if bits < LEAST_CERTIFIED_BITS:
        bits = LEAST_CERTIFIED_BITS
        needed = bits / 16 + spare + scales
        warnings = (f"bounds need a share of {needed:.3g} or more, {share:g} was given",)
    bits = min(bits, MAX_BITS)
    split = (int(bits * d), int(bits * dv))
    return Plan(0, 0, split, True, warnings)


def build(problem: AttentionProblem, plan: Plan, *, seed: int) -> Store:
    """Write what queries will read."""
    clusters = None
    if plan.per_cluster:
        if problem.bias is None:
            of_key = cluster_keys(problem.k, plan.per_cluster)
        else:
            # A mask mostly cuts along the order of keys.
            groups = problem.k.shape[0]
            of_key = contiguous(problem.n, groups, plan.per_cluster, problem.k.device)
        clusters = summarise(problem.k, problem.v, of_key, plan.mean_bits)
    return write(
        problem.k, problem.v, bits=plan.bits, clusters=clusters, dither=plan.dither, seed=seed
    )
