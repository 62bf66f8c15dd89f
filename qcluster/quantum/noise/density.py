"""Density matrices as (2^n, 2^n) arrays, qubit 0 the least significant bit of row and column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError
from qcluster.quantum.noise.channels import Channel

__all__ = ["apply_channel", "apply_unitary", "check_density"]

Complex = NDArray[np.complex128]


def check_density(rho: Complex, *, tolerance: float = 1e-9) -> int:
    """The number of qubits. Raises InputError unless rho is square of size 2^n, Hermitian, of
    trace 1 and positive, each to ``tolerance``.
    """
    rho = np.asarray(rho)
    size = rho.shape[0] if rho.ndim == 2 else 0
    if rho.ndim != 2 or rho.shape != (size, size) or size < 1 or size & (size - 1):
        raise InputError(f"wants shape (2^n, 2^n), got {rho.shape}", field="rho")
    if not np.isfinite(rho).all():
        raise InputError("holds a number that is not finite", field="rho")
    if not np.allclose(rho, rho.conj().T, atol=tolerance):
        raise InputError("is not Hermitian", field="rho")
    trace = float(np.trace(rho).real)
    if abs(trace - 1) > tolerance:
        raise InputError(f"has trace {trace}, wants 1", field="rho")
    lowest = float(np.linalg.eigvalsh(rho)[0])
    if lowest < -tolerance:
        raise InputError(f"has the negative eigenvalue {lowest}", field="rho")
    return size.bit_length() - 1


def apply_unitary(rho: Complex, unitary: Complex, qubits: Sequence[int]) -> Complex:
    """U rho U^dagger with U (2^k, 2^k) on ``qubits``, the first being U's least significant."""
    kraus = np.asarray(unitary, dtype=np.complex128)
    return _contract(rho, np.einsum("ik,jl->ijkl", kraus, kraus.conj()), qubits)


def apply_channel(rho: Complex, channel: Channel, qubits: Sequence[int]) -> Complex:
    """The channel on ``qubits``, as many as it acts on."""
    if len(qubits) != channel.qubits:
        raise InputError(f"acts on {channel.qubits} qubits, got {list(qubits)}", field="qubits")
    return _contract(rho, channel.superoperator, qubits)


def _contract(rho: Complex, superoperator: Complex, qubits: Sequence[int]) -> Complex:
    size = rho.shape[0]
    n = size.bit_length() - 1
    if len(set(qubits)) != len(qubits) or not all(0 <= q < n for q in qubits):
        raise InputError(f"wants different qubits of {n}, got {list(qubits)}", field="qubits")
    k = len(qubits)
    tensor = rho.reshape((2,) * (2 * n))
    # Most significant first: axis of qubit q among the rows is n - 1 - q.
    rows = [n - 1 - q for q in reversed(qubits)]
    columns = [n + axis for axis in rows]
    operator = superoperator.reshape((2,) * (4 * k))
    moved = np.tensordot(operator, tensor, axes=(range(2 * k, 4 * k), rows + columns))
    return np.moveaxis(moved, range(2 * k), rows + columns).reshape(size, size)
