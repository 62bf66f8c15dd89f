"""QAOA circuits with a single-qubit channel on every qubit after every layer."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError
from qcluster.quantum.engine.reference import apply_mixer
from qcluster.quantum.noise.channels import Channel
from qcluster.quantum.noise.density import apply_channel
from qcluster.quantum.noise.trajectories import apply_jump
from qcluster.quantum.problem import IsingProblem
from qcluster.quantum.simulator import QAOASimulator

__all__ = ["MAX_DENSITY_QUBITS", "NoisyQAOA"]

Floats = NDArray[np.float64]

MAX_DENSITY_QUBITS = 11


class NoisyQAOA:
    """QAOA with the X mixer under noise.

    Parameters
    ----------
    problem: the cost; one-hot groups are not enforced, since noise would leave them anyway.
    channel: a single-qubit channel.
    """

    def __init__(self, problem: IsingProblem, channel: Channel) -> None:
        if channel.qubits != 1:
            raise InputError(f"acts on {channel.qubits} qubits, wants 1", field="channel")
        self.problem, self.channel = problem, channel
        self._simulator = QAOASimulator(problem)
        self._size = self._simulator.space.size

    def probabilities(self, gammas: ArrayLike, betas: ArrayLike) -> Floats:
        """(2^n,) exact probabilities from the density matrix.

        Raises InputError beyond 11 qubits, with the byte count: use ``sampled_expectation``.
        """
        n = self.problem.n
        if n > MAX_DENSITY_QUBITS:
            raise InputError(
                f"a density matrix of {n} qubits takes {16 * 4**n} bytes, at most "
                f"{MAX_DENSITY_QUBITS} qubits are taken",
                field="problem",
            )
        diagonal = self._simulator.diagonal
        rho = np.full((self._size, self._size), 1 / self._size, dtype=np.complex128)
        for gamma, beta in self._layers(gammas, betas):
            turn = np.exp(-1j * gamma * diagonal)
            rho = self._mix(turn[:, None] * rho * turn.conj(), beta)
            for qubit in range(n):
                rho = apply_channel(rho, self.channel, [qubit])
        return np.asarray(np.diagonal(rho).real.copy())

    def expectation(self, gammas: ArrayLike, betas: ArrayLike) -> float:
        """<E>, exact."""
        probability = self.probabilities(gammas, betas)
        return float(probability @ self._simulator.diagonal) + self.problem.offset

    def sampled_expectation(
        self, gammas: ArrayLike, betas: ArrayLike, *, trajectories: int, seed: int
    ) -> tuple[float, float]:
        """(<E>, its standard error) over random trajectories."""
        if trajectories < 2:
            raise InputError(f"wants at least 2, got {trajectories}", field="trajectories")
        generator = np.random.default_rng(seed)
        layers = self._layers(gammas, betas)
        diagonal = self._simulator.diagonal
        values = np.empty(trajectories)
        for k in range(trajectories):
            psi = np.full(self._size, self._size**-0.5, dtype=np.complex128)
            for gamma, beta in layers:
                psi = self._turn(psi * np.exp(-1j * gamma * diagonal), beta)
                for qubit in range(self.problem.n):
                    psi = apply_jump(psi, self.channel, qubit, generator)
            values[k] = (psi.real**2 + psi.imag**2) @ diagonal
        error = float(values.std(ddof=1) / np.sqrt(trajectories))
        return float(values.mean()) + self.problem.offset, error

    def _mix(self, rho: NDArray[np.complex128], beta: float) -> NDArray[np.complex128]:
        left = self._turn(rho.T, beta).T
        return self._turn(left.conj(), beta).conj()

    def _turn(self, states: NDArray[np.complex128], beta: float) -> NDArray[np.complex128]:
        """The mixer on the last index of ``states``, which is the fastest."""
        betas = np.full(self.problem.n, beta)
        return apply_mixer(states.ravel(), self._simulator.mixing, betas).reshape(states.shape)

    def _layers(self, gammas: ArrayLike, betas: ArrayLike) -> list[tuple[float, float]]:
        g, b = np.asarray(gammas, dtype=np.float64), np.asarray(betas, dtype=np.float64)
        if g.ndim != 1 or g.shape != b.shape:
            raise InputError(f"wants (p,) and (p,), got {g.shape} and {b.shape}", field="gammas")
        if not (np.isfinite(g).all() and np.isfinite(b).all()):
            raise InputError("holds an angle that is not finite", field="gammas")
        return list(zip(g.tolist(), b.tolist(), strict=True))
