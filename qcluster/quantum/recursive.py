"""Recursive QAOA (Bravyi, Kliesch, Koenig and Tang, 2020).

Each round runs a shallow circuit, takes the strongest correlation in its state, |<Z_i Z_j>| or
|<Z_i>|, and makes it a rule: z_j = +-z_i, or z_i = +-1. One variable fewer each round, until what
is left can be enumerated. The rules are then undone one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.quantum.exact import ExactSolver
from qcluster.quantum.problem import IsingProblem
from qcluster.quantum.qaoa import optimise_angles, ramp_angles
from qcluster.quantum.simulator import QAOASimulator, bytes_needed, count
from qcluster.quantum.solver import SOLVERS, Found

__all__ = ["RecursiveQAOASolver", "eliminate"]

Spins = NDArray[np.int8]


@dataclass(frozen=True)
class Rule:
    """z of ``variable`` = sign * z of ``other``, or = sign when ``other`` is None."""

    variable: int
    other: int | None
    sign: int


class RecursiveQAOASolver:
    """``layers`` layers a round, down to ``stop`` variables."""

    name: ClassVar[str] = "recursive_qaoa"
    quantum: ClassVar[bool] = True

    def __init__(self, layers: int = 1, stop: int = 6, max_spins: int = 18) -> None:
        self.layers, self.stop, self.max_spins = layers, stop, max_spins

    def refuses(self, problem: IsingProblem) -> str | None:
        """One-hot groups, and more than 18 variables, are refused."""
        if problem.groups:
            return "a rule z_j = -z_i may break a one-hot group; qaoa keeps them"
        if problem.n > self.max_spins:
            needed = count(bytes_needed(2**problem.n))
            return f"{problem.n} spins need {needed} bytes, at most {self.max_spins} are simulated"
        return None

    def solve(
        self,
        problem: IsingProblem,
        *,
        deadline: Deadline,
        seed: int,
        start: Spins | None = None,
    ) -> Found:
        """The better of the recursion's answer and ``start``; rounds that the deadline cuts off
        are enumerated. Notes: rounds, the correlations that became rules.
        """
        rules: list[Rule] = []
        strengths: list[float] = []
        smaller = problem
        while smaller.n > self.stop and not deadline.expired:
            rule, strength = self._strongest(smaller, deadline)
            smaller = eliminate(smaller, rule)
            rules.append(rule)
            strengths.append(strength)
        last = ExactSolver().solve(smaller, deadline=Deadline.never(), seed=seed)
        z = last.z.astype(np.int64)
        for rule in reversed(rules):
            z = _undo(rule, z)
        spins = z.astype(np.int8)
        energy = float(problem.energy(spins))
        notes = {"rounds": len(rules), "correlations": strengths, "recursion_energy": energy}
        if start is not None and (held := float(problem.energy(start))) < energy:
            spins, energy = np.asarray(start, dtype=np.int8), held
        return Found(spins, energy, notes=notes)

    def _strongest(self, problem: IsingProblem, deadline: Deadline) -> tuple[Rule, float]:
        simulator = QAOASimulator(problem)
        gammas, betas = ramp_angles(problem, self.layers)
        gammas, betas, _ = optimise_angles(
            simulator, gammas, betas, deadline=deadline.share(0.3), iterations=30
        )
        singles, both = simulator.space.moments(simulator.probabilities(gammas, betas))
        if not problem.h.any():
            singles = np.zeros(problem.n)  # by symmetry; rounding must not decide
        left, right = problem.edges.T
        pairs = both[left, right]
        if not len(pairs) or np.abs(singles).max() > np.abs(pairs).max():
            i = int(np.argmax(np.abs(singles)))
            return Rule(i, None, 1 if singles[i] >= 0 else -1), float(abs(singles[i]))
        k = int(np.argmax(np.abs(pairs)))
        sign = 1 if pairs[k] >= 0 else -1
        return Rule(int(right[k]), int(left[k]), sign), float(abs(pairs[k]))


def eliminate(problem: IsingProblem, rule: Rule) -> IsingProblem:
    """The problem without ``rule.variable``; later variables move down by one. Its energies equal
    the whole problem's wherever the rule holds.
    """
    gone = rule.variable
    fields, edges, weights = problem.h.copy(), problem.edges.copy(), problem.weights.copy()
    touched = (edges == gone).any(axis=1)
    partner = edges[touched].sum(axis=1) - gone
    offset = problem.offset
    if rule.other is None:
        np.add.at(fields, partner, rule.sign * weights[touched])
        offset += rule.sign * float(fields[gone])
        edges, weights = edges[~touched], weights[~touched]
    else:
        fields[rule.other] += rule.sign * fields[gone]
        edges[touched] = np.stack([partner, np.full_like(partner, rule.other)], axis=1)
        weights[touched] *= rule.sign
    keep = np.arange(problem.n) != gone
    place = np.cumsum(keep) - 1
    return IsingProblem(fields[keep], offset=offset, edges=place[edges], weights=weights)


def _undo(rule: Rule, z: NDArray[np.int64]) -> NDArray[np.int64]:
    whole = np.insert(z, rule.variable, rule.sign)
    if rule.other is not None:
        whole[rule.variable] = rule.sign * whole[rule.other]
    return whole


SOLVERS.register(RecursiveQAOASolver.name, RecursiveQAOASolver())
