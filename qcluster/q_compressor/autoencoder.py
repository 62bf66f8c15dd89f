"""The quantum autoencoder (Romero, Olson and Aspuru-Guzik, 2017) on blocks of 2^n values.

A block is the amplitudes of n qubits. The circuit is strongly entangling layers with real
amplitudes: in each a rotation about Y on every qubit, then a ring of controlled NOTs whose reach
grows by one a layer. Kept are the first amplitudes after the circuit; decoding is its inverse, so
all of it is one orthogonal matrix. Training maximises the energy that is kept, which is the mean
square error that is not made; principal components are its proven optimum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qcluster.codec.circuit import CircuitBasis, apply_ring, rotate
from qcluster.errors import InputError

__all__ = ["Autoencoder", "fit_autoencoder", "gradient_backprop", "gradient_shift", "kept_energy"]

F64 = NDArray[np.float64]
Gradient = Literal["backprop", "parameter_shift"]


@dataclass(frozen=True)
class Autoencoder:
    """``angles`` (layers, qubits) in radians; ``keep`` latents of 2^qubits were trained for."""

    angles: F64
    keep: int

    @property
    def qubits(self) -> int:
        """Wires of the circuit."""
        return int(self.angles.shape[1])

    def basis(self) -> CircuitBasis:
        """As a blob has it: angles in 16 bits."""
        turns = np.rint(self.angles / (2 * np.pi) * 65536).astype(np.int64) % 65536
        return CircuitBasis(tuple(tuple(int(t) for t in row) for row in turns))


def _layers(angles: F64, matrix: F64) -> F64:
    """The circuit's matrix times ``matrix`` (2^n, m)."""
    for number, row in enumerate(angles):
        for qubit, angle in enumerate(row):
            matrix = rotate(matrix, qubit, float(angle))
        matrix = matrix[apply_ring(len(row), number)]
    return matrix


def _objective(angles: F64, covariance: F64, keep: int) -> float:
    unitary = _layers(angles, np.eye(len(covariance)))[:keep]
    return float(np.trace(unitary @ covariance @ unitary.T))


def gradient_shift(angles: F64, covariance: F64, keep: int) -> tuple[float, F64]:
    """Energy kept and its gradient by the parameter-shift rule (Schuld and others, 2019)."""
    gradient = np.empty_like(angles)
    for at in np.ndindex(angles.shape):
        shift = np.zeros_like(angles)
        shift[at] = np.pi / 2
        ahead = _objective(angles + shift, covariance, keep)
        gradient[at] = (ahead - _objective(angles - shift, covariance, keep)) / 2
    return _objective(angles, covariance, keep), gradient


def gradient_backprop(angles: F64, covariance: F64, keep: int) -> tuple[float, F64]:
    """The same in one pass forward and one back: W = R C R^T of the gates so far, Q = S^T P S of
    those to come; the gradient of a rotation is tr(J W Q) with its generator J.
    """
    layers, qubits = angles.shape
    state = covariance
    passed: list[F64] = []
    for number in range(layers):
        for qubit in range(qubits):
            angle = float(angles[number, qubit])
            state = rotate(rotate(state, qubit, angle).T, qubit, angle).T
            passed.append(state)
        order = apply_ring(qubits, number)
        state = state[order][:, order]
    value = float(np.trace(state[:keep, :keep]))
    ahead = np.zeros_like(covariance)
    ahead[np.arange(keep), np.arange(keep)] = 1.0
    gradient = np.empty_like(angles)
    for number in range(layers - 1, -1, -1):
        order = apply_ring(qubits, number)
        back = np.empty_like(ahead)
        back[np.ix_(order, order)] = ahead
        ahead = back
        for qubit in range(qubits - 1, -1, -1):
            product = passed[number * qubits + qubit] @ ahead
            # J is a quarter turn of the qubit: its rotation by pi.
            gradient[number, qubit] = float(np.trace(rotate(product, qubit, np.pi)))
            angle = -float(angles[number, qubit])
            ahead = rotate(rotate(ahead, qubit, angle).T, qubit, angle).T
    return value, gradient


def fit_autoencoder(
    blocks: F64, *, keep: int, layers: int = 12, steps: int = 150, seed: int = 0, starts: int = 4,
    gradient: Gradient = "backprop",
) -> Autoencoder:  # fmt: skip
    """Train on blocks (n, 2^qubits) of any norm, by L-BFGS from several seeded starts.

    Raises InputError for blocks that are no power of two long, empty or not finite.
    """
    size = blocks.shape[1] if blocks.ndim == 2 else 0
    if size < 2 or size & (size - 1) or size > 256 or not len(blocks):
        raise InputError(f"wants blocks (n, 2^qubits), got {blocks.shape}", field="blocks")
    if not 0 < keep <= size or not np.isfinite(blocks).all():
        raise InputError(f"wants finite blocks and 1 to {size} latents", field="blocks")
    from scipy.optimize import minimize

    covariance = blocks.T @ blocks
    covariance /= max(float(np.trace(covariance)), 1e-300)
    qubits = size.bit_length() - 1
    slope = gradient_backprop if gradient == "backprop" else gradient_shift

    def loss(flat: F64) -> tuple[float, F64]:
        value, found = slope(flat.reshape(layers, qubits), covariance, keep)
        return -value, -found.reshape(-1)

    best = None
    for start in range(starts):
        first = np.random.default_rng(seed + start).normal(0, 0.7, layers * qubits)
        found = minimize(loss, first, jac=True, method="L-BFGS-B", options={"maxiter": steps})
        best = found if best is None or found.fun < best.fun else best
    assert best is not None
    return Autoencoder(np.asarray(best.x).reshape(layers, qubits), keep)


def kept_energy(model: Autoencoder, blocks: F64, keep: int) -> tuple[float, float]:
    """Shares of the blocks' energy in ``keep`` latents: the circuit's, and the best possible
    (principal components).
    """
    covariance = blocks.T @ blocks
    covariance /= max(float(np.trace(covariance)), 1e-300)
    values = np.linalg.eigvalsh(covariance)[::-1]
    return _objective(model.angles, covariance, keep), float(values[:keep].sum())
