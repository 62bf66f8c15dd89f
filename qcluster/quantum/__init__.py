"""Ising problems, solvers and the simulated quantum layer that all domains share."""

from __future__ import annotations

from qcluster.quantum.problem import IsingProblem
from qcluster.quantum.simulator import QAOASimulator
from qcluster.quantum.solve import ising_stage, solve
from qcluster.quantum.solver import SOLVERS, Found, IsingSolver, Solution

__all__ = [
    "SOLVERS",
    "Found",
    "IsingProblem",
    "IsingSolver",
    "QAOASimulator",
    "Solution",
    "ising_stage",
    "solve",
]
