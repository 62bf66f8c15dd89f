"""One clock for every solver: a point in time after which an answer is worth nothing.

A ``Deadline`` is created once where a request enters and handed down; nobody below starts a timer
of their own. It counts on the monotonic clock, so a change of wall time moves nothing. Solvers
look at it inside their loops and return their best so far; ``qcluster.worker`` ends those that
do not.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from qcluster.errors import DeadlineExceeded, InputError

__all__ = ["Deadline"]


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock, in seconds; ``math.inf`` never comes."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The moment ``seconds`` from now.

        Raises InputError for NaN or a negative time.
        """
        if math.isnan(seconds) or seconds < 0:
            raise InputError(f"must be a time of at least 0 s, got {seconds}", field="deadline_s")
        return cls(time.monotonic() + seconds)

    @classmethod
    def never(cls) -> Deadline:
        """A deadline that does not come."""
        return cls(math.inf)

    def remaining(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self.at - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether the moment has passed."""
        return time.monotonic() >= self.at

    def check(self) -> None:
        """Raise DeadlineExceeded when the moment has passed."""
        if self.expired:
            raise DeadlineExceeded("the deadline passed before there was an answer")

    def share(self, fraction: float) -> Deadline:
        """A deadline that leaves ``fraction`` of what remains, for one of several steps."""
        remaining = self.remaining()
        return self if math.isinf(remaining) else Deadline(time.monotonic() + fraction * remaining)

    def sooner(self, seconds: float) -> Deadline:
        """This deadline or ``seconds`` from now, whichever comes first."""
        return Deadline(min(self.at, time.monotonic() + seconds))
