"""A clock for deadlines that passes when a test says so, and counts how often it is looked at.

With it a test of a deadline asserts what a solver does once the time is over, and not how fast the
machine is: solvers look at the clock between pieces of work, so few looks after the end are little
work after it. How far real answers come from their deadlines is measured by
``benchmarks/deadlines.py``.
"""

from __future__ import annotations

import math

import pytest

__all__ = ["Clock"]


class Clock:
    """Stands still for ``looks`` looks and is past every deadline from then on.

    ``before`` and ``after`` count the looks until then and since.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, looks: float = math.inf) -> None:
        self.looks, self.before, self.after = looks, 0, 0
        monkeypatch.setattr("qcluster.deadline.time", self)

    def monotonic(self) -> float:
        if self.before < self.looks:
            self.before += 1
            return 0.0
        self.after += 1
        # It goes on, so that time set aside after the end is over at the next look.
        return 1e9 * self.after
