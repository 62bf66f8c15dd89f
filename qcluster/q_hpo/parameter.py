"""One hyperparameter: its values, and where each lies on the unit interval.

Numbers map affinely, by logarithm, or by the normal distribution function; a listed set (integers,
quantised numbers, categories) has one cell of equal width per value, whose middle stands for it, so
that a uniform draw of the unit interval draws from the parameter's own distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError

__all__ = ["Condition", "Parameter"]

F = NDArray[np.float64]
# Beyond four standard deviations a normal draw is out of what a model can place.
_TAIL = 3.2e-5


@dataclass(frozen=True)
class Condition:
    """The parameter exists only where ``parent`` has one of ``values``."""

    parent: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Parameter:
    """A named hyperparameter.

    ``kind``: float, int, normal, choice or constant. Numbers lie in [low, high], both included;
    for normal ``low`` is the mean and ``high`` the standard deviation. ``q``: only ``origin`` plus
    multiples of it.
    """

    name: str
    kind: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    q: float | None = None
    choices: tuple[Any, ...] = ()
    when: Condition | None = None
    origin: float = 0.0

    def __post_init__(self) -> None:
        if self.kind in ("choice", "constant"):
            if not self.choices:
                raise InputError("has no values to choose from", field=self.name)
            return
        for end in (self.low, self.high):
            self._check_bound(end)
        if self.q is not None and not (_finite(self.q) and self.q > 0):
            raise InputError(f"wants a positive step, got {str(self.q)[:40]}", field=self.name)
        if self.kind == "normal":
            if self.high <= 0:
                raise InputError("wants a positive standard deviation", field=self.name)
            return
        if not self.low < self.high and not (self.kind == "int" and self.low == self.high):
            raise InputError(f"wants low < high, got {self.low} and {self.high}", field=self.name)
        if not _finite(self.high - self.low):
            raise InputError(
                f"has bounds too far apart for numbers: {self.low} and {self.high}", field=self.name
            )
        if self.kind == "int":
            self._check_whole()
        if self.log and self.low <= 0:
            raise InputError(f"is logarithmic and wants low > 0, got {self.low}", field=self.name)
        if self.levels == 0:
            raise InputError(
                f"has no multiple of {self.q} between {self.low} and {self.high}", field=self.name
            )

    def _check_bound(self, end: Any) -> None:
        if isinstance(end, bool) or not isinstance(end, (int, float, np.integer, np.floating)):
            raise InputError(f"wants numbers as bounds, got {end!r}", field=self.name)
        if not _finite(end):
            raise InputError(f"has a bound that is not finite: {str(end)[:40]}", field=self.name)

    def _check_whole(self) -> None:
        for end in (self.low, self.high, self.q or 1):
            if end != int(end):
                raise InputError(f"wants whole numbers, got {end}", field=self.name)

    @property
    def step(self) -> float | None:
        """Distance of listed numbers; None for continuous ones."""
        return self.q if self.q is not None else 1.0 if self.kind == "int" else None

    @property
    def levels(self) -> int | None:
        """How many values there are; None if they are not listed."""
        if self.kind in ("choice", "constant"):
            return len(self.choices)
        if self.step is None or self.kind == "normal":
            return None
        first, last = self._ends()
        return max(0, last - first + 1)

    @property
    def is_category(self) -> bool:
        """Whether its values have no order."""
        return self.kind == "choice"

    def snap(self, u: F) -> F:
        """The points of the unit interval that stand for the values at ``u`` (m,)."""
        u = np.clip(np.asarray(u, float), 0.0, 1.0)
        count = self.levels
        if count is None:
            if self.kind == "normal" and self.q is not None:
                return np.array([self.unit(self.value(float(one))) for one in u])
            return np.clip(u, _TAIL, 1 - _TAIL) if self.kind == "normal" else u
        if count == 1:
            return np.full_like(u, 0.5)
        if self.kind in ("choice", "constant") or not self.log:
            return (np.minimum(np.floor(u * count), count - 1) + 0.5) / count
        return self._unit_of_index(self._index(u))

    def value(self, u: float) -> Any:
        """The value at ``u`` in [0, 1]."""
        if self.kind == "constant":
            return self.choices[0]
        if self.kind == "choice":
            return self.choices[min(int(u * len(self.choices)), len(self.choices) - 1)]
        if self.kind == "normal":
            from scipy.special import ndtri

            return self._rounded(self.low + self.high * float(ndtri(min(max(u, _TAIL), 1 - _TAIL))))
        if self.step is None:
            inside = self.low + u * (self.high - self.low)
            if self.log:
                inside = math.exp(
                    math.log(self.low) + u * (math.log(self.high) - math.log(self.low))
                )
            return float(min(max(inside, self.low), self.high))
        return self.value_at(int(self._index(np.array([u]))[0]))

    def unit(self, value: Any) -> float:
        """Where ``value`` lies. Raises InputError if it is not one of the parameter's values."""
        if self.kind in ("choice", "constant"):
            return self._unit_of_choice(value)
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise InputError(f"wants a number, got {value!r}", field=self.name)
        if not _finite(value):
            raise InputError(f"wants a finite number, got {str(value)[:40]}", field=self.name)
        number = float(value)
        if self.kind == "normal":
            from scipy.special import ndtr

            return float(ndtr((number - self.low) / self.high))
        slack = 1e-9 * (self.high - self.low)
        if not self.low - slack <= number <= self.high + slack:
            raise InputError(f"wants {self.low} to {self.high}, got {number}", field=self.name)
        if self.step is None:
            if self.log:
                first, last = math.log(self.low), math.log(self.high)
                return min((math.log(max(number, self.low)) - first) / (last - first), 1.0)
            return min(max((number - self.low) / (self.high - self.low), 0.0), 1.0)
        first, last = self._ends()
        if self.kind == "int" and isinstance(value, (int, np.integer)):
            place = round(Fraction(int(value) - int(self.origin), int(self.step)))
        else:
            place = round((number - self.origin) / self.step)
        index = min(max(place, first), last) - first
        return float(self._unit_of_index(np.array([float(index)]))[0])

    def _unit_of_choice(self, value: Any) -> float:
        for i, choice in enumerate(self.choices):
            if same_value(choice, value):
                return (i + 0.5) / len(self.choices)
        shown = ", ".join(map(repr, self.choices[:8]))
        raise InputError(f"knows {shown}, got {value!r}", field=self.name)

    def _ends(self) -> tuple[int, int]:
        if self.kind == "int":  # exactly: floats do not tell large ones apart
            unit, origin = int(self.step or 1), int(self.origin)
            return -((origin - int(self.low)) // unit), (int(self.high) - origin) // unit
        step = self.step or 1.0
        low, high = (self.low - self.origin) / step, (self.high - self.origin) / step
        return math.ceil(low - 1e-9), math.floor(high + 1e-9)

    def _edges(self) -> tuple[float, float]:
        """Logarithms of the outer edges of the first and last cell."""
        first, last = self._ends()
        step = self.step or 1.0
        low = self.origin + (first - 0.5) * step
        high = self.origin + (last + 0.5) * step
        # The first cell of a logarithmic scale ends at half of its value at the lowest.
        return math.log(max(low, 0.5 * (self.origin + first * step))), math.log(high)

    def _index(self, u: F) -> F:
        """Index from 0 of the listed number at ``u``."""
        first, last = self._ends()
        if not self.log:
            count = last - first + 1
            return np.minimum(np.floor(u * count), count - 1)
        step = self.step or 1.0
        low, high = self._edges()
        number = np.exp(low + u * (high - low))
        return np.clip(np.round((number - self.origin) / step), first, last) - first

    def _unit_of_index(self, index: F) -> F:
        first, last = self._ends()
        if not self.log:
            return np.asarray((index + 0.5) / (last - first + 1), float)
        low, high = self._edges()
        number = self.origin + (index + first) * (self.step or 1.0)
        out: F = np.clip((np.log(number) - low) / (high - low), 0.0, 1.0)
        return out

    def value_at(self, index: int) -> float | int:
        """The listed number with this index, from 0."""
        first, last = self._ends()
        step = self.step or 1.0
        if self.kind == "int":
            return int(self.origin) + min(int(index) + first, last) * int(step)
        return self._clean(self.origin + (index + first) * step)

    def _rounded(self, number: float) -> float:
        if self.q is None:
            return number
        return self._clean(round(number / self.q) * self.q)

    @staticmethod
    def _clean(number: float) -> float:
        """Without the last bits that a multiplication by the step leaves (0.30000000000000004)."""
        return float(f"{number:.12g}")


def _finite(number: Any) -> bool:
    """Whether it is a number that floats can hold; whole numbers can be larger than all of them."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def same_value(a: Any, b: Any) -> bool:
    """Equality that keeps True apart from 1 and reads lists (from JSON) as tuples."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same_value(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, bool) != isinstance(b, bool):
        return False
    try:
        return bool(a == b)
    except (TypeError, ValueError):
        return a is b
