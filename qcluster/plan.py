"""What every plan carries: its envelope and its certificate.

A plan is a frozen dataclass that derives from ``Plan`` and adds the fields of its module. The
certificate (objective, proven lower bound, gap, baselines, quantum gain) is computed here and
nowhere else, so that the same words mean the same in every module. Objectives are always
minimised: a figure that is maximised enters as its reciprocal or negated.

Knows nothing of telemetry, solvers or domains.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qcluster.errors import SolverFailed
from qcluster.record import Record

__all__ = [
    "SCHEMA_VERSION",
    "Certificate",
    "Plan",
    "SolverRef",
    "TelemetryRef",
    "certify",
    "new_plan_id",
    "relative_gap",
]

SCHEMA_VERSION = 1

# Bounds and objectives come out of different sums of floats; this is the slack between them that
# is rounding and not a broken proof.
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class TelemetryRef(Record):
    """Which snapshot a plan was made from.

    ``age_s`` is the age of its newest sample when the plan was made, in seconds; ``simulated``
    is true when any of it came from the simulator.
    """

    snapshot_hash: str = ""
    age_s: float = 0.0
    simulated: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class SolverRef(Record):
    """Which solver was asked for, which one's answer is in the plan, and why they differ."""

    requested: str
    used: str
    fallback_reason: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Certificate(Record):
    """How good an answer is, and how that is known.

    ``lower_bound`` is a proof: no answer has a smaller objective. ``gap`` is
    (objective - lower_bound) / |objective|. ``quantum_gain`` is the best classical baseline at
    equal time minus ours. Where a figure is None, ``reasons`` holds why, under its name.
    """

    objective: float
    lower_bound: float | None
    gap: float | None
    baselines: dict[str, float]
    quantum_gain: float | None
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan(Record):
    """The envelope around every plan. Times are Unix seconds; ``wall_s`` is time spent solving."""

    planner: str
    config: dict[str, Any]
    seed: int
    solver: SolverRef
    objective: float
    lower_bound: float | None = None
    gap: float | None = None
    baselines: dict[str, float] = field(default_factory=dict)
    quantum_gain: float | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    telemetry: TelemetryRef = field(default_factory=TelemetryRef)
    wall_s: float = 0.0
    warnings: list[str] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION
    plan_id: str = field(default_factory=lambda: new_plan_id())  # noqa: PLW0108 - defined below
    created_at: float = field(default_factory=time.time)
    expires_at: float | None = None


def certify(
    objective: float,
    *,
    lower_bound: float | None,
    baselines: Mapping[str, float] | None = None,
    quantum_used: bool = False,
    bound_reason: str = "no bound is known for this problem",
) -> Certificate:
    """The certificate of an answer.

    Parameters
    ----------
    objective: the answer's objective, minimised.
    lower_bound: a proven bound, or None with ``bound_reason``.
    baselines: classical solvers' objectives on the same problem in the same time.
    quantum_used: whether a quantum path ran; only then is there a ``quantum_gain``.

    Raises
    ------
    SolverFailed: the objective is not finite, or lies below its bound: then one of the two is
        wrong, and an answer that refutes its own proof must not leave the house.
    """
    if not math.isfinite(objective):
        raise SolverFailed(f"objective is {objective}")
    baselines = {name: float(value) for name, value in (baselines or {}).items()}
    reasons: dict[str, str] = {}
    gap: float | None = None
    if lower_bound is None:
        reasons["lower_bound"] = bound_reason
    else:
        slack = _ROUNDING * max(1.0, abs(objective), abs(lower_bound))
        if lower_bound > objective + slack:
            raise SolverFailed(f"objective {objective!r} lies below its bound {lower_bound!r}")
        lower_bound = min(float(lower_bound), float(objective))
        gap = relative_gap(objective, lower_bound)
    gain: float | None = None
    if not quantum_used:
        reasons["quantum_gain"] = "no quantum solver ran"
    elif not baselines:
        reasons["quantum_gain"] = "no classical baseline ran"
    else:
        gain = min(baselines.values()) - objective
    return Certificate(
        objective=float(objective),
        lower_bound=lower_bound,
        gap=gap,
        baselines=baselines,
        quantum_gain=gain,
        reasons=reasons,
    )


def relative_gap(objective: float, lower_bound: float) -> float:
    """(objective - bound) / |objective|; 0 when equal, inf when only the objective is 0."""
    difference = objective - lower_bound
    if difference <= 0:
        return 0.0
    return difference / abs(objective) if objective else math.inf


def new_plan_id(now: float | None = None) -> str:
    """An id that sorts by time: 11 hex digits of milliseconds, a dash, 8 random ones."""
    millis = int((time.time() if now is None else now) * 1000)
    return f"{millis:011x}-{secrets.token_hex(4)}"


def describe(certificate: Certificate | Plan, unit: str = "") -> str:
    """One line for people: objective, bound, gap and the best baseline."""
    parts = [f"objective {certificate.objective:.6g}{unit}"]
    if certificate.lower_bound is not None and certificate.gap is not None:
        parts.append(f"bound {certificate.lower_bound:.6g}{unit} (gap {certificate.gap:.2%})")
    else:
        parts.append(f"no bound: {certificate.reasons.get('lower_bound', 'unknown')}")
    if certificate.baselines:
        name = min(certificate.baselines, key=certificate.baselines.__getitem__)
        parts.append(f"best baseline {name} {certificate.baselines[name]:.6g}{unit}")
    return ", ".join(parts)


def merge_warnings(*groups: Sequence[str]) -> list[str]:
    """All warnings in order, each once."""
    return list(dict.fromkeys(line for group in groups for line in group))
