"""Ising problems, solvers and the simulated quantum layer that all domains share."""

from __future__ import annotations

from qcluster.quantum.problem import IsingProblem
from qcluster.quantum.solver import SOLVERS, Found, IsingSolver, Solution

__all__ = ["SOLVERS", "Found", "IsingProblem", "IsingSolver", "Solution"]
