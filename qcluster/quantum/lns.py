"""Large-neighbourhood search whose moves are QAOA samples: thousands of variables, small circuits.

The incumbent comes from annealing with half of the time. Then overlapping connected sub-problems
of up to 2^12 configurations are cut out around random variables with everything else held, a
circuit with transferred angles is sampled, and the best sample replaces that part unless it is
worse. Angles are optimised on the first sub-problem and reused on the rest (Brandao et al., 2018:
angles concentrate over instances of a family). Simulated, this loses to annealing at equal time;
it exists so that a device can take the sampler's place, and its gain is reported as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.quantum.annealing import AnnealingSolver, energy_scale
from qcluster.quantum.local import Arrays, State
from qcluster.quantum.problem import IsingProblem
from qcluster.quantum.qaoa import optimise_angles, ramp_angles
from qcluster.quantum.simulator import QAOASimulator
from qcluster.quantum.solver import SOLVERS, Found

__all__ = ["QAOANeighbourhoodSolver", "connected_part"]

Spins = NDArray[np.int8]
Floats = NDArray[np.float64]


class QAOANeighbourhoodSolver:
    """Parameters
    ----------
    layers: of each circuit.
    shots: samples of each circuit.
    spins: variables of a sub-problem, at most (groups enter whole).
    parts: sub-problems before it stops of itself, for each variable of the problem.
    """

    name: ClassVar[str] = "qaoa_lns"
    quantum: ClassVar[bool] = True

    def __init__(
        self, layers: int = 4, shots: int = 64, spins: int = 12, parts: float = 1.0
    ) -> None:
        self.layers, self.shots, self.spins, self.parts = layers, shots, spins, parts

    def refuses(self, problem: IsingProblem) -> str | None:
        """A group whose levels alone are more than a circuit may have is refused."""
        largest = max(map(len, problem.groups), default=0)
        if largest > 2**self.spins:
            return f"a one-hot group of {largest} variables, circuits take 2^{self.spins} levels"
        return None

    def solve(
        self,
        problem: IsingProblem,
        *,
        deadline: Deadline,
        seed: int,
        start: Spins | None = None,
    ) -> Found:
        """The incumbent after all refinements. Notes: the warm start's energy, sub-problems,
        improvements, angles.
        """
        warm = AnnealingSolver().solve(
            problem, deadline=deadline.share(0.5), seed=seed, start=start
        )
        if not problem.n:
            return warm
        refinement = _Refinement(self, problem, warm.z, seed)
        for _ in range(int(np.ceil(self.parts * problem.n))):
            if deadline.expired:
                break
            refinement.step(deadline)
        z = refinement.state.spins()
        notes = {"warm_start_energy": warm.energy, **refinement.notes()}
        energy = float(problem.energy(z))
        if energy > warm.energy:  # rounding of equal states
            z, energy = warm.z, warm.energy
        return Found(z, energy, notes=notes)


@dataclass(eq=False)
class _Refinement:
    """The incumbent and what has been done to it."""

    solver: QAOANeighbourhoodSolver
    problem: IsingProblem
    first: Spins
    seed: int

    def __post_init__(self) -> None:
        self.arrays = Arrays.of(self.problem)
        self.state = State.at(self.arrays, self.first)
        self.generator = np.random.default_rng(self.seed)
        self.angles: tuple[Floats, Floats] | None = None
        self.circuits = self.improved = 0

    def step(self, deadline: Deadline) -> None:
        """One sub-problem: cut, sample, keep what is no worse."""
        root = int(self.generator.integers(self.problem.n))
        free = connected_part(self.arrays, root, self.solver.spins, self.generator)
        part = _cut(self.arrays, self.state, free)
        if part.n == 0:
            return
        simulator = QAOASimulator(part, "xy_complete" if part.groups else "x")
        gammas, betas = self._angles(part, simulator, deadline)
        self.circuits += 1
        samples = simulator.sample(
            gammas, betas, shots=self.solver.shots, seed=int(self.generator.integers(2**31))
        )
        energies = np.atleast_1d(part.energy(samples))
        best = int(np.argmin(energies))
        held = float(part.energy(self.state.z[free]))
        slack = 1e-12 * max(1.0, part.scale)
        if energies[best] <= held + slack:
            if energies[best] < held - slack:
                self.improved += 1
            elif not energies[best] <= held:
                return
            self._move(free, samples[best])

    def notes(self) -> dict[str, Any]:
        """Provenance for the solution."""
        gammas, betas = self.angles or (np.empty(0), np.empty(0))
        return {
            "circuits": self.circuits,
            "improved": self.improved,
            "layers": self.solver.layers,
            "shots": self.solver.shots,
            "scaled_gammas": gammas.tolist(),
            "betas": betas.tolist(),
        }

    def _angles(
        self, part: IsingProblem, simulator: QAOASimulator, deadline: Deadline
    ) -> tuple[Floats, Floats]:
        """Angles in the part's own scale; optimised once, then transferred."""
        unit = energy_scale(part)
        if self.angles is None:
            gammas, betas = ramp_angles(part, self.solver.layers)
            gammas, betas, _ = optimise_angles(
                simulator, gammas, betas, deadline=deadline.share(0.2), iterations=30
            )
            self.angles = gammas * unit, betas
        return self.angles[0] / unit, self.angles[1]

    def _move(self, free: NDArray[np.int64], spins: Spins) -> None:
        state = self.state
        for i, spin in zip(free.tolist(), spins.tolist(), strict=True):
            if state.z[i] != spin:
                low, high = self.arrays.indptr[i], self.arrays.indptr[i + 1]
                state.field[self.arrays.indices[low:high]] += (
                    2.0 * spin * self.arrays.data[low:high]
                )
                state.z[i] = spin


def connected_part(
    arrays: Arrays, root: int, spins: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Variables around ``root`` with at most 2^spins configurations, grown along couplings in
    random order; a one-hot group enters whole or not at all.
    """
    problem, room = arrays.problem, float(spins)
    chosen: dict[int, None] = {}
    seen = {root}
    frontier = [root]
    while frontier and room >= 1.0:
        i = frontier.pop(int(generator.integers(len(frontier))))
        if i in chosen:
            continue
        number = int(arrays.group[i])
        members = problem.groups[number] if number >= 0 else (i,)
        cost = np.log2(len(members)) if number >= 0 else 1.0
        if cost > room:
            continue
        room -= cost
        chosen.update(dict.fromkeys(members))
        for member in members:
            for j in arrays.indices[arrays.indptr[member] : arrays.indptr[member + 1]].tolist():
                if j not in seen:
                    seen.add(j)
                    frontier.append(j)
    return np.array(sorted(chosen), dtype=np.int64)


def _cut(arrays: Arrays, state: State, free: NDArray[np.int64]) -> IsingProblem:
    """The problem over ``free`` with the rest held, without the constant: O(its couplings)."""
    problem = arrays.problem
    place = {int(i): k for k, i in enumerate(free)}
    fields = state.field[free].copy()
    edges, weights = [], []
    for k, i in enumerate(free.tolist()):
        for e in range(arrays.indptr[i], arrays.indptr[i + 1]):
            other = place.get(int(arrays.indices[e]))
            if other is not None:
                fields[k] -= arrays.data[e] * state.z[arrays.indices[e]]
                if k < other:
                    edges.append((k, other))
                    weights.append(float(arrays.data[e]))
    numbers = sorted({int(arrays.group[i]) for i in free} - {-1})
    groups = [[place[i] for i in problem.groups[number]] for number in numbers]
    return IsingProblem(fields, groups=groups, edges=edges, weights=weights)


SOLVERS.register(QAOANeighbourhoodSolver.name, QAOANeighbourhoodSolver())
