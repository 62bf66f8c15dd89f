"""The seam that every Ising solver implements, and the registry they stand in.

A solver takes a problem, a deadline, a seed and perhaps a start, and gives the best it found.
Third parties register under the entry-point group ``qcluster.solvers``; ``qcluster.testing`` holds
the conformance tests that a solver must pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.quantum.problem import IsingProblem
from qcluster.record import Record
from qcluster.registry import Registry

__all__ = ["SOLVERS", "Found", "IsingSolver", "Solution"]


@dataclass(frozen=True)
class Found:
    """What a solver brings back: spins (n,) of +-1 that satisfy the groups, and their energy.

    ``lower_bound`` is a proof for the whole problem, or None. ``notes`` is provenance: iterations,
    angles, shots, backend.
    """

    z: NDArray[np.int8]
    energy: float
    lower_bound: float | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


class IsingSolver(Protocol):
    """A way to minimise an Ising problem."""

    name: ClassVar[str]
    quantum: ClassVar[bool]
    """Whether it runs (simulated) quantum circuits; such solvers get classical baselines beside."""

    def refuses(self, problem: IsingProblem) -> str | None:
        """Why this solver does not take the problem, with the number (qubits, bytes), or None."""
        ...

    def solve(
        self,
        problem: IsingProblem,
        *,
        deadline: Deadline,
        seed: int,
        start: NDArray[np.int8] | None = None,
    ) -> Found:
        """The best spins found when done or when the deadline comes.

        Never worse than ``start``, which satisfies the groups. The same seed gives the same answer
        when time does not cut the search short. Problems with n = 0 are answered.
        """
        ...


SOLVERS: Registry[IsingSolver] = Registry("Ising solver", "qcluster.solvers")
"""All Ising solvers by name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution(Record):
    """A certified answer to an Ising problem.

    ``z`` (n,) of +-1; ``objective`` its energy; the rest as in every plan's certificate.
    """

    z: NDArray[np.int8]
    objective: float
    lower_bound: float | None
    gap: float | None
    solver: str
    requested: str
    baselines: dict[str, float]
    quantum_gain: float | None
    reasons: dict[str, str] = field(default_factory=dict)
    fallback_reason: str | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    wall_s: float = 0.0
