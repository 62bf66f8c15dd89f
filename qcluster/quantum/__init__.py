"""Ising problems, solvers and the simulated quantum layer that all domains share."""

from __future__ import annotations

from qcluster.quantum import circuits, kernels, mps, noise
from qcluster.quantum.backends import BACKENDS, Backend, Circuit, Gateway, qaoa_circuit
from qcluster.quantum.hhl import hhl_solve
from qcluster.quantum.problem import IsingProblem
from qcluster.quantum.qft import qft_decode
from qcluster.quantum.qsvt import qsvt_apply
from qcluster.quantum.simulator import QAOASimulator
from qcluster.quantum.solve import ising_stage, solve
from qcluster.quantum.solver import SOLVERS, Found, IsingSolver, Solution

__all__ = [
    "BACKENDS",
    "SOLVERS",
    "Backend",
    "Circuit",
    "Found",
    "Gateway",
    "IsingProblem",
    "IsingSolver",
    "QAOASimulator",
    "Solution",
    "circuits",
    "hhl_solve",
    "ising_stage",
    "kernels",
    "mps",
    "noise",
    "qaoa_circuit",
    "qft_decode",
    "qsvt_apply",
    "solve",
]
