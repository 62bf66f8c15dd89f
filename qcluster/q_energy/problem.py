"""What is asked of the energy room, as validated frozen records.

Power is in watts. Tasks run in integer time steps whose length is the caller's; nothing here
knows seconds. Throughput has any unit as long as it can be added up over the curves.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError
from qcluster.plan import SolverRef
from qcluster.record import Record

__all__ = ["Allocation", "Curve", "Schedule", "Task", "check_watts"]

_MAX_STEPS = 10_000_000


@dataclass(frozen=True, eq=False)
class Curve(Record):
    """Throughput over power of one GPU, job or node.

    Parameters
    ----------
    power_w: (k,) watts at each operating point, in any order, at least 0.
    throughput: (k,) work per second there, any unit that adds up, finite.
    min_w, max_w: floor and ceiling in watts; points outside are never chosen. None: no limit.

    Raises InputError naming the field for empty, unequal, non-finite or negative values, and
    when floor and ceiling leave no point.
    """

    power_w: NDArray[np.float64]
    throughput: NDArray[np.float64]
    min_w: float | None = None
    max_w: float | None = None

    def __post_init__(self) -> None:
        power = _row(self.power_w, "power_w")
        value = _row(self.throughput, "throughput")
        if len(power) != len(value):
            raise InputError(f"wants {len(power)} values, got {len(value)}", field="throughput")
        if (power < 0).any():
            raise InputError(f"{power.min():g} W is negative", field="power_w")
        object.__setattr__(self, "power_w", power)
        object.__setattr__(self, "throughput", value)
        for name in ("min_w", "max_w"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, check_watts(getattr(self, name), name))
        if not self.allowed.any():
            low = "none" if self.min_w is None else f"{self.min_w:g} W"
            high = "none" if self.max_w is None else f"{self.max_w:g} W"
            raise InputError(
                f"no point lies between floor {low} and ceiling {high}; "
                f"points span {power.min():g} to {power.max():g} W",
                field="power_w",
            )

    @property
    def allowed(self) -> NDArray[np.bool_]:
        """(k,) which points lie within floor and ceiling."""
        low = -math.inf if self.min_w is None else self.min_w
        high = math.inf if self.max_w is None else self.max_w
        inside: NDArray[np.bool_] = (self.power_w >= low) & (self.power_w <= high)
        return inside


@dataclass(frozen=True, kw_only=True, eq=False)
class Allocation(Record):
    """One operating point a curve.

    ``choice`` (n,) indexes each curve's points as they were given; ``power_w`` (n,) watts there.
    ``value`` is the sum of throughput, ``upper_bound`` a proof: no allocation within the budget
    has more. ``total_w`` is the sum of ``power_w``, ``min_budget_w`` the smallest budget that
    has an allocation at all.
    """

    choice: NDArray[np.int64]
    power_w: NDArray[np.float64]
    value: float
    upper_bound: float
    total_w: float
    budget_w: float
    min_budget_w: float


@dataclass(frozen=True, eq=False)
class Task(Record):
    """A piece of work that draws constant power while it runs.

    Parameters
    ----------
    id: a name or number, unique among the tasks.
    duration: time steps, an integer of at least 0.
    power_w: watts while it runs, at least 0.
    after: ids of tasks that must have finished.
    modes: ((duration, power_w), ...); when given, the task runs in one of these and a schedule's
        ``mode`` indexes them. Without modes there is the one mode (duration, power_w), index 0.

    Raises InputError naming task and field.
    """

    id: Any
    duration: int
    power_w: float
    after: tuple[Any, ...] = ()
    modes: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.id, bool) or not isinstance(self.id, Hashable) or self.id in ("", None):
            raise InputError(f"wants a name or number, got {self.id!r}", field="task.id")
        where = f"task {self.id}"
        object.__setattr__(self, "duration", _steps(self.duration, f"{where}.duration"))
        object.__setattr__(self, "power_w", check_watts(self.power_w, f"{where}.power_w"))
        object.__setattr__(self, "after", _after(self.after, where))
        object.__setattr__(self, "modes", _modes(self.modes, where))

    @property
    def options(self) -> tuple[tuple[int, float], ...]:
        """The modes to choose from, at least one."""
        return self.modes or ((self.duration, self.power_w),)


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule(Record):
    """Start step and mode of every task, with the proof of how good the peak is.

    ``peak_w`` is the highest sum of running tasks' power over all steps, and the objective;
    ``lower_bound`` a proof that no schedule within the deadline has a lower one. ``makespan`` is
    the step at which the last task ends. The rest is as in every plan's certificate.
    """

    start: dict[Any, int]
    mode: dict[Any, int]
    peak_w: float
    lower_bound: float
    gap: float
    makespan: int
    deadline: int
    solver: SolverRef
    baselines: dict[str, float] = field(default_factory=dict)
    quantum_gain: float | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    wall_s: float = 0.0


def check_watts(value: Any, name: str) -> float:
    """``value`` as finite watts of at least 0, or InputError naming the field."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        raise InputError(f"wants watts, got {value!r}", field=name)
    watts = float(value)
    if not math.isfinite(watts) or watts < 0:
        raise InputError(f"wants finite watts of at least 0, got {watts:g}", field=name)
    return watts


def _row(values: ArrayLike, name: str) -> NDArray[np.float64]:
    if isinstance(values, np.ndarray) and values.dtype == bool:
        raise InputError("wants numbers, got booleans", field=name)
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError("wants numbers", field=name) from None
    if array.ndim != 1 or not len(array):
        raise InputError(f"wants a row of numbers, got shape {array.shape}", field=name)
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise InputError(f"{array[bad[0]]} at [{bad[0]}] is not finite", field=name)
    return array


def _steps(value: Any, name: str) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise InputError(f"wants a whole number of time steps, got {value!r}", field=name)
    if not 0 <= value <= _MAX_STEPS:
        raise InputError(f"wants 0 to {_MAX_STEPS} time steps, got {value}", field=name)
    return int(value)


def _after(after: Any, where: str) -> tuple[Any, ...]:
    if isinstance(after, (str, bytes, Mapping)) or not isinstance(after, Sequence):
        raise InputError(f"wants a tuple of task ids, got {after!r}", field=f"{where}.after")
    try:
        return tuple(dict.fromkeys(after))
    except TypeError:
        raise InputError(f"wants task ids, got {after!r:.60}", field=f"{where}.after") from None


def _modes(modes: Any, where: str) -> tuple[tuple[int, float], ...]:
    if isinstance(modes, (str, bytes, Mapping)) or not isinstance(modes, Sequence):
        raise InputError("wants ((duration, power_w), ...)", field=f"{where}.modes")
    out = []
    for k, mode in enumerate(modes):
        name = f"{where}.modes[{k}]"
        if isinstance(mode, str) or not isinstance(mode, Sequence) or len(mode) != 2:
            raise InputError(f"wants (duration, power_w), got {mode!r}", field=name)
        out.append((_steps(mode[0], name), check_watts(mode[1], name)))
    return tuple(out)
