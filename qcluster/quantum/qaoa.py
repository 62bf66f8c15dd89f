"""QAOA as an Ising solver: angles from a ramp, improved by exact gradients, then samples.

Knows no shortcut: the answer is the best measured configuration (or the start, if that is better),
though the simulator could read the optimum off its diagonal. Restricted to sizes where a gradient
fits into the deadline.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.quantum.annealing import energy_scale
from qcluster.quantum.problem import IsingProblem
from qcluster.quantum.simulator import QAOASimulator, bytes_needed, count
from qcluster.quantum.solver import SOLVERS, Found
from qcluster.quantum.space import Space

__all__ = ["QAOASolver", "interpolate_angles", "optimise_angles", "ramp_angles"]

Floats = NDArray[np.float64]

MAX_AMPLITUDES = 2**20


def ramp_angles(problem: IsingProblem, layers: int, step: float = 0.7) -> tuple[Floats, Floats]:
    """A linear annealing ramp (Sack and Serbyn, 2021), gamma scaled by the problem's energies.

    gamma rises from 0 and |beta| falls to 0; beta is negative, since the start |+> is the highest
    state of sum X and so the lowest of -sum X.
    """
    position = (np.arange(layers) + 0.5) / max(layers, 1)
    return position * step / energy_scale(problem), -(1 - position) * step


def interpolate_angles(angles: Floats) -> Floats:
    """INTERP (Zhou et al., 2020): angles (p,) of a good circuit to a start for p + 1 layers."""
    p = len(angles)
    padded = np.concatenate([[0.0], angles, [0.0]])
    position = np.arange(p + 1)
    return np.asarray((position * padded[:-1] + (p - position) * padded[1:]) / p)


def optimise_angles(
    simulator: QAOASimulator,
    gammas: Floats,
    betas: Floats,
    *,
    deadline: Deadline,
    iterations: int = 60,
    tolerance: float = 1e-6,
) -> tuple[Floats, Floats, dict[str, Any]]:
    """L-BFGS on <E> from these angles (p,); the best angles seen and a log of the run.

    Stops at the deadline, after ``iterations``, or when <E> changes by less than ``tolerance`` of
    the problem's scale.
    """
    from scipy.optimize import minimize

    layers, unit = len(gammas), energy_scale(simulator.problem)
    # Gammas in units of 1 / energy, so that both kinds of angle have like curvature.
    best: dict[str, Any] = {"value": np.inf, "x": np.concatenate([gammas * unit, betas])}
    energies: list[float] = []

    def objective(x: Floats) -> tuple[float, Floats]:
        if energies and deadline.expired:
            raise _OutOfTime
        value, by_gamma, by_beta = simulator.value_and_grad(x[:layers] / unit, x[layers:])
        energies.append(value)
        if value < best["value"]:
            best.update(value=value, x=x.copy())
        return value / unit, np.concatenate([by_gamma / unit, by_beta]) / unit

    try:
        minimize(
            objective, best["x"], jac=True, method="L-BFGS-B",
            options={"maxiter": iterations, "ftol": tolerance},
        )  # fmt: skip
        stopped = "converged or out of iterations"
    except _OutOfTime:
        stopped = "deadline"
    x = best["x"]
    log = {"evaluations": len(energies), "energies": energies, "stopped": stopped}
    return x[:layers] / unit, x[layers:], log


class QAOASolver:
    """QAOA with ``layers`` layers and ``shots`` measurements.

    ``mixer`` None takes ``x``, or ``xy_complete`` when the problem has one-hot groups.
    """

    name: ClassVar[str] = "qaoa"
    quantum: ClassVar[bool] = True

    def __init__(self, layers: int = 3, shots: int = 1024, mixer: str | None = None) -> None:
        self.layers, self.shots, self.mixer = layers, shots, mixer

    def refuses(self, problem: IsingProblem) -> str | None:
        """More than 2^20 amplitudes are refused, with the bytes that they would take."""
        size = Space.of(problem).size
        if size > MAX_AMPLITUDES:
            return (
                f"{problem.n} spins have {count(size)} amplitudes, "
                f"{count(bytes_needed(size))} bytes; at most 2^20 amplitudes are simulated"
            )
        return None

    def solve(
        self,
        problem: IsingProblem,
        *,
        deadline: Deadline,
        seed: int,
        start: NDArray[np.int8] | None = None,
    ) -> Found:
        """The best of the samples and ``start``. Notes: angles, energies, shots, best sample."""
        mixer = self.mixer or ("xy_complete" if problem.groups else "x")
        simulator = QAOASimulator(problem, mixer)
        gammas, betas, log = self._angles(simulator, deadline.share(0.8))
        samples = simulator.sample(gammas, betas, shots=self.shots, seed=seed)
        energies = problem.energy(samples)
        place = int(np.argmin(energies))
        z, energy = samples[place], float(energies[place])
        notes = {
            "mixer": mixer,
            "gammas": gammas.tolist(),
            "betas": betas.tolist(),
            "shots": self.shots,
            "sampled_best": energy,
            "sampled_mean": float(energies.mean()),
            **log,
        }
        if start is not None and (held := float(problem.energy(start))) < energy:
            z, energy = np.asarray(start, dtype=np.int8), held
        return Found(z, energy, notes=notes)

    def _angles(
        self, simulator: QAOASimulator, deadline: Deadline
    ) -> tuple[Floats, Floats, dict[str, Any]]:
        """The better of two optimised circuits: from a ramp, and grown layer by layer."""
        first = optimise_angles(
            simulator, *ramp_angles(simulator.problem, self.layers), deadline=deadline.share(0.5)
        )
        grown = ramp_angles(simulator.problem, 1)
        for layers in range(1, self.layers + 1):
            if deadline.expired:
                return first
            second = optimise_angles(simulator, *grown, deadline=deadline)
            if layers < self.layers:
                grown = interpolate_angles(second[0]), interpolate_angles(second[1])
        log = {**second[2], "evaluations": first[2]["evaluations"] + second[2]["evaluations"]}
        better = min(second[2]["energies"]) < min(first[2]["energies"])
        chosen = second if better else first
        return chosen[0], chosen[1], {**log, "energies": chosen[2]["energies"]}


class _OutOfTime(Exception):
    """Ends scipy's loop from inside the objective."""


SOLVERS.register(QAOASolver.name, QAOASolver())
