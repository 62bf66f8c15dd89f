"""QAOA as an Ising solver: angles from a ramp or a table, improved by exact gradients, then shots.

Knows no shortcut: the answer is the best measured configuration (or the start, if that is better),
though the simulator could read the optimum off its diagonal. Restricted to sizes where a gradient
fits into the deadline.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.errors import InputError
from qcluster.quantum.angles import (
    fixed_angles,
    interpolate_angles,
    ramp_angles,
    relaxed_spins,
    warm_spins,
)
from qcluster.quantum.annealing import energy_scale
from qcluster.quantum.problem import IsingProblem
from qcluster.quantum.simulator import QAOASimulator, bytes_needed, count
from qcluster.quantum.solver import SOLVERS, Found
from qcluster.quantum.space import Space

__all__ = [
    "CVaRQAOASolver", "FixedAngleQAOASolver", "MultiAngleQAOASolver", "QAOASolver",
    "WarmStartQAOASolver", "interpolate_angles", "optimise_angles", "ramp_angles",
]  # fmt: skip

Floats = NDArray[np.float64]
Log = dict[str, Any]

MAX_AMPLITUDES = 2**20
CALM = 3
"""Iterations in a row with hardly any change that end an optimisation."""


def optimise_angles(
    simulator: QAOASimulator,
    gammas: Floats,
    betas: Floats,
    *,
    deadline: Deadline,
    iterations: int = 60,
    tolerance: float = 1e-6,
    alpha: float = 1.0,
) -> tuple[Floats, Floats, Log]:
    """L-BFGS on <E>, or with ``alpha`` < 1 on the CVaR of the best share, from these angles: (p,),
    or (p, n) and (p, terms) for an angle a term. The best angles seen and a log of the run.

    Stops at the deadline, after ``iterations``, or when three iterations in a row change the value
    by less than ``tolerance`` of the problem's scale. The log: ``evaluations``, their ``energies``,
    ``iterations``, the ``best`` value behind each of them (it never rises), ``stopped``.
    """
    from scipy.optimize import minimize

    if not gammas.size:
        raise InputError("wants at least one layer", field="gammas")
    run = _Run(simulator, np.shape(gammas), np.shape(betas), deadline, alpha, tolerance)
    first = np.concatenate([np.ravel(gammas) * run.unit, np.ravel(betas)])
    stopped = "converged or out of iterations"
    try:
        minimize(
            run.value, first, jac=True, method="L-BFGS-B", callback=run.after,
            options={"maxiter": iterations, "ftol": 0.0},
        )  # fmt: skip
        if run.calm >= CALM:
            stopped = "converged"
    except _OutOfTime:
        stopped = "deadline"
    gammas, betas = run.angles(run.best_x)
    log = {
        "evaluations": len(run.energies),
        "energies": run.energies,
        "iterations": len(run.best),
        "best": run.best,
        "stopped": stopped,
    }
    return gammas, betas, log


class _Run:
    """The objective in scaled angles, with what was seen."""

    def __init__(
        self, simulator: QAOASimulator, g: tuple[int, ...], b: tuple[int, ...],
        deadline: Deadline, alpha: float, tolerance: float,
    ) -> None:  # fmt: skip
        self.simulator, self.shapes, self.deadline = simulator, (g, b), deadline
        # Gammas in units of 1 / energy, so that both kinds of angle have like curvature.
        self.unit = energy_scale(simulator.problem)
        self.alpha, self.slack = alpha, tolerance * self.unit
        self.low, self.calm = np.inf, 0
        self.best_x = np.empty(0)
        self.energies: list[float] = []
        self.best: list[float] = []
        self._last = np.inf

    def angles(self, x: Floats) -> tuple[Floats, Floats]:
        """Gammas and betas in their own shapes and units."""
        (g, b), cut = self.shapes, int(np.prod(self.shapes[0]))
        return x[:cut].reshape(g) / self.unit, x[cut:].reshape(b)

    def value(self, x: Floats) -> tuple[float, Floats]:
        """For scipy: value and gradient in units of the problem's scale."""
        if self.energies and self.deadline.expired:
            raise _OutOfTime
        multi = len(self.shapes[0]) == 2
        angles = self.angles(x)
        if self.alpha < 1:
            value, by_gamma, by_beta = self.simulator.cvar_and_grad(
                *angles, alpha=self.alpha, multi_angle=multi
            )
        else:
            value, by_gamma, by_beta = self.simulator.value_and_grad(*angles, multi_angle=multi)
        self.energies.append(float(value))
        if value < self.low:
            self.low, self.best_x = float(value), x.copy()
        self._now = float(value)
        return value / self.unit, np.concatenate(
            [np.ravel(by_gamma) / self.unit, np.ravel(by_beta)]
        ) / self.unit

    def after(self, x: Floats) -> None:
        """The end of an iteration."""
        del x
        self.best.append(self.low)
        self.calm = self.calm + 1 if abs(self._now - self._last) < self.slack else 0
        self._last = self._now
        if self.calm >= CALM:
            raise StopIteration


class QAOASolver:
    """QAOA with ``layers`` layers and ``shots`` measurements.

    ``mixer`` None takes ``x``, or ``xy_complete`` when the problem has one-hot groups. ``alpha`` is
    the share of best measurements whose mean the angles minimise; 1 is <E>.
    """

    name: ClassVar[str] = "qaoa"
    quantum: ClassVar[bool] = True

    def __init__(
        self,
        layers: int = 3,
        shots: int = 1024,
        mixer: str | None = None,
        *,
        alpha: float = 1.0,
        tolerance: float = 1e-6,
    ) -> None:
        self.layers, self.shots, self.mixer = layers, shots, mixer
        self.alpha, self.tolerance = alpha, tolerance

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
        simulator = self._simulator(problem, mixer, start, seed)
        gammas, betas, log = self._angles(simulator, deadline.share(0.8))
        samples = simulator.sample(
            gammas, betas, shots=self.shots, seed=seed, multi_angle=gammas.ndim == 2
        )
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

    def _simulator(
        self,
        problem: IsingProblem,
        mixer: str,
        start: NDArray[np.int8] | None,  # noqa: ARG002 - for those that start warm
        seed: int,  # noqa: ARG002
    ) -> QAOASimulator:
        return QAOASimulator(problem, mixer)

    def _angles(self, simulator: QAOASimulator, deadline: Deadline) -> tuple[Floats, Floats, Log]:
        """The better of two optimised circuits: from a ramp, and grown layer by layer."""
        first = self._optimise(
            simulator, ramp_angles(simulator.problem, self.layers), deadline.share(0.5)
        )
        grown = ramp_angles(simulator.problem, 1)
        for layers in range(1, self.layers + 1):
            if deadline.expired:
                return first
            second = self._optimise(simulator, grown, deadline)
            if layers < self.layers:
                grown = interpolate_angles(second[0]), interpolate_angles(second[1])
        log = {**second[2], "evaluations": first[2]["evaluations"] + second[2]["evaluations"]}
        better = min(second[2]["energies"]) < min(first[2]["energies"])
        chosen = second if better else first
        return chosen[0], chosen[1], {**log, "energies": chosen[2]["energies"]}

    def _optimise(
        self, simulator: QAOASimulator, angles: tuple[Floats, Floats], deadline: Deadline
    ) -> tuple[Floats, Floats, Log]:
        return optimise_angles(
            simulator, *angles, deadline=deadline, alpha=self.alpha, tolerance=self.tolerance
        )


class CVaRQAOASolver(QAOASolver):
    """QAOA whose angles minimise the mean of the best fifth of measurements."""

    name: ClassVar[str] = "qaoa_cvar"

    def __init__(self, layers: int = 3, shots: int = 1024, mixer: str | None = None) -> None:
        super().__init__(layers, shots, mixer, alpha=0.2)


class FixedAngleQAOASolver(QAOASolver):
    """QAOA with angles from the literature and no optimisation (Wurtz and Lykov, 2021)."""

    name: ClassVar[str] = "qaoa_fixed"

    def _angles(self, simulator: QAOASimulator, deadline: Deadline) -> tuple[Floats, Floats, Log]:  # noqa: ARG002
        gammas, betas = fixed_angles(simulator.problem, self.layers)
        return gammas, betas, {"evaluations": 0, "energies": [], "stopped": "fixed angles"}


class WarmStartQAOASolver(QAOASolver):
    """QAOA from the state around a known answer (Egger, Marecek and Woerner, 2021): the start's
    spins, each kept with probability 1 - ``eps``, or without a start a mean-field relaxation.

    The mixer ``xy_ring`` has no warm start. Angles minimise CVaR: the mean of all measurements is
    best where the circuit only repeats its start.
    """

    name: ClassVar[str] = "qaoa_warm"

    def __init__(
        self, layers: int = 3, shots: int = 1024, mixer: str | None = None, *, eps: float = 0.25
    ) -> None:
        super().__init__(layers, shots, mixer, alpha=0.2)
        self.eps = eps

    def _simulator(
        self, problem: IsingProblem, mixer: str, start: NDArray[np.int8] | None, seed: int
    ) -> QAOASimulator:
        known = relaxed_spins(problem, seed=seed) if start is None else start
        warm = warm_spins(problem, known, eps=self.eps)
        return QAOASimulator(problem, mixer, warm_start=warm)


class MultiAngleQAOASolver(QAOASolver):
    """QAOA with 2 x p x N angles, one a variable and one a term of the mixer (Herrman et al.,
    2022), improved from the best equal ones.
    """

    name: ClassVar[str] = "qaoa_multi"

    def __init__(self, layers: int = 2, shots: int = 1024, mixer: str | None = None) -> None:
        super().__init__(layers, shots, mixer)

    def _angles(self, simulator: QAOASimulator, deadline: Deadline) -> tuple[Floats, Floats, Log]:
        gammas, betas, plain = super()._angles(simulator, deadline.share(0.5))
        n, terms = simulator.problem.n, simulator.mixing.terms
        if not n:
            return gammas, betas, plain
        each = np.repeat(gammas[:, None], n, axis=1), np.repeat(betas[:, None], terms, axis=1)
        gammas, betas, log = self._optimise(simulator, each, deadline)
        return gammas, betas, {**log, "equal_angles": min(plain["energies"])}


class _OutOfTime(Exception):
    """Ends scipy's loop from inside the objective."""


for _solver in (
    QAOASolver, CVaRQAOASolver, FixedAngleQAOASolver, WarmStartQAOASolver, MultiAngleQAOASolver
):  # fmt: skip
    SOLVERS.register(_solver.name, _solver())
