"""Linear systems by HHL (Harrow, Hassidim and Lloyd, 2009), simulated exactly.

Phase estimation with t clock qubits reads an eigenvalue as one of 2^t values; in the eigenbasis the
whole circuit (estimate, rotate the ancilla by C / lambda, undo the estimate, keep ancilla 1 and
clock 0) multiplies each component by f(lambda) = sum_k |a_k(lambda)|^2 C / lambda_k, with |a_k|^2
the Fejer kernel of phase estimation. So the state vector after the circuit is had without building
2^t copies, to rounding. A direct solver is faster at every size; its answer stands beside.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError
from qcluster.quantum.linear import real_system
from qcluster.record import Record

__all__ = ["HHLResult", "hhl_solve"]

Floats = NDArray[np.float64]

MAX_CLOCK_QUBITS = 16
# Singular values below this share of the largest count as zero.
RANK = 1e-12


@dataclass(frozen=True, kw_only=True, eq=False)
class HHLResult(Record):
    """``x`` (n,) as HHL gives it, its norm from the success probability; ``fidelity`` is the
    squared overlap of its direction with the least-squares solution, which took ``classical_s``.
    """

    x: NDArray[np.float64]
    classical: NDArray[np.float64]
    fidelity: float
    success_probability: float
    condition_number: float
    clock_qubits: int
    quantum_s: float
    classical_s: float


def hhl_solve(
    A: ArrayLike, b: ArrayLike, *, clock_qubits: int | None = None, eps: float = 1e-2
) -> HHLResult:
    """Solve A x = b, in the least-squares sense when A (m, n) is not square or singular.

    Parameters
    ----------
    A: (m, n) real. A matrix that is not symmetric is embedded in [[0, A], [A^T, 0]].
    b: (m,) real, not zero.
    clock_qubits: precision of the phase estimation; by default log2(kappa / eps) + 2, rounded up.
    eps: wanted relative precision of eigenvalues, for the default.

    Raises InputError for bad shapes and values, and outside HHL's domain: a condition number (over
    the non-zero singular values) that needs more than 16 clock qubits, with the numbers.
    """
    matrix, right = real_system(A, b)
    begun = time.perf_counter()
    classical: Floats = np.linalg.lstsq(matrix, right, rcond=RANK)[0].astype(np.float64)
    classical_s = time.perf_counter() - begun
    begun = time.perf_counter()
    rows, columns = matrix.shape
    symmetric = rows == columns and np.array_equal(matrix, matrix.T)
    whole = matrix if symmetric else _dilation(matrix)
    values, vectors = np.linalg.eigh(whole)
    largest = float(np.abs(values).max())
    values = np.where(np.abs(values) <= RANK * largest, 0.0, values)
    smallest = float(np.abs(values[values != 0]).min())
    kappa = largest / smallest
    clock = _clock(kappa, clock_qubits, eps)
    padded = right if symmetric else np.concatenate([right, np.zeros(columns)])
    size = float(np.linalg.norm(padded))
    components = vectors.T @ (padded / size)
    factors, scale = _filter(values / largest, clock)
    state = vectors @ (factors * components)
    probability = float(state @ state)
    x = (state if symmetric else state[rows:]) * (size / (scale * largest))
    return HHLResult(
        x=x,
        classical=classical,
        fidelity=_fidelity(x, classical),
        success_probability=probability,
        condition_number=kappa,
        clock_qubits=clock,
        quantum_s=time.perf_counter() - begun,
        classical_s=classical_s,
    )


def _filter(values: Floats, clock: int) -> tuple[Floats, float]:
    """f(lambda) for eigenvalues in [-1, 1], and the rotation's constant C.

    Clock value k means lambda_k = k / (2^(t-1) - 1), negative in the upper half. k = 0 is not
    rotated. C is the smallest lambda_k, so no rotation exceeds 1.
    """
    count = 2**clock
    top = count // 2 - 1
    signed = np.fft.fftfreq(count, 1 / count)
    rotation = np.divide(1.0, signed, out=np.zeros(count), where=signed != 0)
    phase = values * top  # in clock steps
    factors = np.empty_like(values)
    for i, position in enumerate(phase):
        distance = (position - signed) / count
        bottom = count * np.sin(np.pi * distance)
        apart = np.abs(bottom) > 1e-12
        wave = np.sin(np.pi * count * distance)
        ratio = np.divide(wave, bottom, out=np.ones(count), where=apart)
        factors[i] = np.square(ratio) @ rotation
    return factors, 1.0 / top


def _clock(kappa: float, clock_qubits: int | None, eps: float) -> int:
    if not 0 < eps < 1:
        raise InputError(f"wants a number in (0, 1), got {eps}", field="eps")
    needed = int(np.ceil(np.log2(kappa / eps))) + 2
    clock = needed if clock_qubits is None else clock_qubits
    if clock > MAX_CLOCK_QUBITS:
        raise InputError(
            f"has condition number {kappa:.6g}: eps {eps:g} needs {clock} clock qubits, "
            f"at most {MAX_CLOCK_QUBITS} are simulated",
            field="A",
        )
    if clock < max(2, np.log2(kappa) + 1):
        raise InputError(
            f"{clock} clock qubits cannot tell eigenvalues of condition number {kappa:.6g} from 0",
            field="clock_qubits",
        )
    return clock


def _dilation(matrix: Floats) -> Floats:
    rows, columns = matrix.shape
    return np.block([[np.zeros((rows, rows)), matrix], [matrix.T, np.zeros((columns, columns))]])


def _fidelity(x: Floats, y: Floats) -> float:
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float((x @ y / size) ** 2) if size else 0.0
