"""QAOA angles of routing: where they start, and how they are improved.

Angles are one array (2, layers, qubits): gammas, then betas, one for each qubit (multi-angle QAOA,
Herrman et al. 2022).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.errors import MissingDependency
from qcluster.q_routing.config import RoutingConfig

if TYPE_CHECKING:
    from qcluster.quantum import IsingProblem, QAOASimulator

__all__ = ["optimise", "ramp", "warm_start"]

Floats = NDArray[np.float64]


def ramp(ising: IsingProblem, layers: int) -> Floats:
    """A linear annealing schedule (Sack & Serbyn 2021), gammas in units of 1 / energy."""
    position = (np.arange(layers) + 0.5) / layers
    pair = np.stack([position * 0.7 / _unit(ising), -(1 - position) * 0.7])
    return np.repeat(pair[:, :, None], ising.n, axis=2)


def warm_start(
    ising: IsingProblem,
    bits: NDArray[np.bool_],
    start: Floats,
    noise: float,
    rng: np.random.Generator,
) -> Floats:
    """(1 - noise) x the angles that prepare ``bits`` + noise x a perturbation of ``start``.

    On |+> a phase of pi/4 and an X rotation of pi/4 turn a qubit to 0 or 1 by the phase's sign;
    couplings disturb that, which the optimizer then repairs.
    """
    sign = np.where(bits, -1.0, 1.0)
    field = np.where(np.abs(ising.h) > 1e-9 * _unit(ising), ising.h, np.inf)
    classical = np.zeros_like(start)
    classical[0, 0] = np.clip(-sign * (np.pi / 4) / field, -10 / _unit(ising), 10 / _unit(ising))
    classical[1, 0] = -np.pi / 4
    return (1 - noise) * classical + noise * start * rng.normal(1.0, 0.3, start.shape)


def optimise(
    simulator: QAOASimulator, start: Floats, config: RoutingConfig, deadline: Deadline
) -> tuple[Floats, dict[str, Any]]:
    """The best angles met, and a log: iterations, expected energies, why it stopped.

    Stops when the expected energy changes by less than ``tolerance`` of its scale between
    iterations, after ``iterations``, or at the deadline.
    """
    unit = np.stack(
        [np.full(start.shape[1:], 1 / _unit(simulator.problem)), np.ones(start.shape[1:])]
    )
    scale = _unit(simulator.problem) * np.sqrt(max(simulator.problem.n, 1))
    trace = _Trace(simulator, unit, scale)
    run = _lbfgs if config.optimizer == "lbfgs" else _gradient_descent
    stopped = run(trace, start / unit, config, deadline)
    return trace.best * unit, {
        "iterations": len(trace.energies),
        "expected": trace.energies,
        "stopped": stopped,
    }


class _Trace:
    """Value and gradient in scaled angles, with the best met and the energies of iterations."""

    def __init__(self, simulator: QAOASimulator, unit: Floats, scale: float) -> None:
        self.simulator, self.unit, self.scale = simulator, unit, scale
        self.low, self.best = np.inf, unit
        self.now = np.inf
        self.energies: list[float] = []

    def __call__(self, x: Floats) -> tuple[float, Floats]:
        angles = x.reshape(self.unit.shape)
        gammas, betas = angles * self.unit
        value, by_gamma, by_beta = self.simulator.value_and_grad(gammas, betas)
        self.now = float(value)
        if self.now < self.low:
            self.low, self.best = self.now, angles.copy()
        gradient = np.stack([by_gamma, by_beta]) * self.unit
        return self.now / self.scale, gradient.reshape(x.shape) / self.scale

    def settled(self, tolerance: float) -> bool:
        """Note the end of an iteration; whether the energy has stopped changing."""
        self.energies.append(self.now)
        if len(self.energies) < 2:
            return False
        return abs(self.energies[-1] - self.energies[-2]) < tolerance * self.scale


def _lbfgs(trace: _Trace, start: Floats, config: RoutingConfig, deadline: Deadline) -> str:
    from scipy.optimize import minimize

    reason = ["iterations"]

    def after(x: Floats) -> None:
        del x
        if trace.settled(config.tolerance):
            reason[0] = "converged"
            raise StopIteration
        if deadline.expired:
            reason[0] = "deadline"
            raise StopIteration

    minimize(
        trace, start.ravel(), jac=True, method="L-BFGS-B", callback=after,
        options={"maxiter": config.iterations, "maxfun": 3 * config.iterations},
    )  # fmt: skip
    return reason[0]


def _gradient_descent(
    trace: _Trace, start: Floats, config: RoutingConfig, deadline: Deadline
) -> str:
    try:
        import pennylane as qml
    except ImportError as error:
        raise MissingDependency("pennylane", needed_for="optimizer gradient_descent") from error
    optimizer = qml.GradientDescentOptimizer(stepsize=0.2)
    x = qml.numpy.array(start.ravel(), requires_grad=True)
    for _ in range(config.iterations):
        x = optimizer.step(
            lambda y: trace(np.asarray(y))[0], x, grad_fn=lambda y: trace(np.asarray(y))[1]
        )
        if trace.settled(config.tolerance):
            return "converged"
        if deadline.expired:
            return "deadline"
    return "iterations"


def _unit(ising: IsingProblem) -> float:
    """Root mean square of the energy that a spin sees, 1 for a problem without terms."""
    total = float(np.square(ising.h).sum() + 2 * np.square(ising.weights).sum())
    return float(np.sqrt(total / max(ising.n, 1))) or 1.0
