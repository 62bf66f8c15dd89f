"""Circuits as lists of gates, and their exact simulation; the common tongue of all backends.

Qubit 0 is the least significant bit of a basis state's index. Rotations are
exp(-i angle/2 P) with P = X, Y, Z or Z Z, as in Qiskit and PennyLane.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.deadline import Deadline
from qcluster.errors import InputError
from qcluster.quantum.problem import IsingProblem

__all__ = ["GATES", "Circuit", "apply_matrix", "gate_matrix", "qaoa_circuit", "sample_counts"]

GATES = {"h": (1, 0), "x": (1, 0), "rx": (1, 1), "ry": (1, 1), "rz": (1, 1), "rzz": (2, 1),
         "cx": (2, 0)}  # fmt: skip
"""Name -> number of qubits, number of angles. ``cx``: control first."""

MAX_QUBITS = 24

Complex = NDArray[np.complex128]
Gate = tuple[str, tuple[int, ...], float]


@dataclass(frozen=True)
class Circuit:
    """Gates (name, qubits, angle in radians; 0 where a gate has none) on |0...0>, all measured.

    Raises InputError for an unknown gate, a wrong qubit, or an angle that is not finite.
    """

    qubits: int
    gates: tuple[Gate, ...]

    def __post_init__(self) -> None:
        if isinstance(self.qubits, bool) or self.qubits < 1:
            raise InputError(f"wants at least 1, got {self.qubits}", field="qubits")
        for name, qubits, angle in self.gates:
            if name not in GATES:
                raise InputError(f"'{name}' is none of {', '.join(GATES)}", field="gates")
            right = len(qubits) == GATES[name][0] == len(set(qubits))
            if not right or not all(0 <= q < self.qubits for q in qubits):
                raise InputError(f"{name} cannot act on qubits {qubits}", field="gates")
            if not math.isfinite(angle):
                raise InputError(f"{name} has an angle that is not finite", field="gates")


def qaoa_circuit(problem: IsingProblem, gammas: ArrayLike, betas: ArrayLike) -> Circuit:
    """The circuit whose state is that of ``QAOASimulator(problem).state(gammas, betas)``, up to a
    phase. Angles (p,). Raises InputError for other shapes.
    """
    g, b = np.asarray(gammas, dtype=np.float64), np.asarray(betas, dtype=np.float64)
    if g.ndim != 1 or g.shape != b.shape:
        raise InputError(f"wants (p,) and (p,), got {g.shape} and {b.shape}", field="gammas")
    every = range(problem.n)
    gates: list[Gate] = [("h", (q,), 0.0) for q in every]
    for gamma, beta in zip(g.tolist(), b.tolist(), strict=True):
        gates += [("rz", (q,), 2 * gamma * float(problem.h[q])) for q in every if problem.h[q]]
        gates += [
            ("rzz", (int(i), int(j)), 2 * gamma * float(w))
            for (i, j), w in zip(problem.edges, problem.weights, strict=True)
        ]
        gates += [("rx", (q,), 2 * beta) for q in every]
    return Circuit(problem.n, tuple(gates))


def gate_matrix(name: str, angle: float) -> Complex:
    """The unitary of a gate; for two qubits the first is the less significant bit."""
    c, s = math.cos(angle / 2), math.sin(angle / 2)
    turn = complex(c, -s)
    matrices: dict[str, list[list[complex]]] = {
        "h": [[2**-0.5, 2**-0.5], [2**-0.5, -(2**-0.5)]],
        "x": [[0, 1], [1, 0]],
        "rx": [[c, -1j * s], [-1j * s, c]],
        "ry": [[c, -s], [s, c]],
        "rz": [[turn, 0], [0, turn.conjugate()]],
        "rzz": np.diag([turn, turn.conjugate(), turn.conjugate(), turn]).tolist(),
        "cx": [[1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0]],
    }
    return np.array(matrices[name], dtype=np.complex128)


def apply_matrix(state: Complex, matrix: Complex, qubits: Sequence[int]) -> Complex:
    """``matrix`` (2^k, 2^k) on ``qubits`` (the first the least significant) of ``state`` (2^n,)."""
    n, k = len(state).bit_length() - 1, len(qubits)
    # C order: axis 0 of the tensor is the most significant qubit.
    axes = [n - 1 - q for q in reversed(qubits)]
    tensor = np.moveaxis(state.reshape((2,) * n), axes, range(k))
    product = (matrix @ tensor.reshape(2**k, -1)).reshape((2,) * n)
    return np.ascontiguousarray(np.moveaxis(product, range(k), axes)).reshape(-1)


def final_state(circuit: Circuit, deadline: Deadline) -> Complex:
    """Amplitudes (2^n,). Raises InputError above 24 qubits, DeadlineExceeded between gates."""
    if circuit.qubits > MAX_QUBITS:
        raise InputError(
            f"a state of {circuit.qubits} qubits takes {16 << circuit.qubits} bytes, at most "
            f"{MAX_QUBITS} qubits are simulated",
            field="qubits",
        )
    state = np.zeros(2**circuit.qubits, dtype=np.complex128)
    state[0] = 1.0
    for name, qubits, angle in circuit.gates:
        deadline.check()
        state = apply_matrix(state, gate_matrix(name, angle), qubits)
    return state


def sample_counts(
    circuit: Circuit, shots: int, seed: int, deadline: Deadline | None = None
) -> dict[int, int]:
    """How often each basis state was measured, from an exact simulation."""
    state = final_state(circuit, Deadline.never() if deadline is None else deadline)
    cumulative = np.cumsum(state.real**2 + state.imag**2)
    draws = np.random.default_rng(seed).random(shots) * cumulative[-1]
    index, counts = np.unique(np.searchsorted(cumulative, draws, side="right"), return_counts=True)
    return dict(zip(index.tolist(), counts.tolist(), strict=True))
