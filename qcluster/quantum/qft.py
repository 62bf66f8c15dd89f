"""The quantum Fourier transform as a circuit, gate by gate, with its classical reading beside."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError

__all__ = ["qft_decode"]

MAX_QUBITS = 22


def qft_decode(
    values: ArrayLike, *, inverse: bool = False, circuit: bool = False
) -> NDArray[np.complex128]:
    """The unitary transform y_k = N^(-1/2) sum_j x_j e^(2 pi i j k / N) of values (N,).

    Parameters
    ----------
    values: (N,) real or complex amplitudes, N a power of two; any norm, which is kept.
    inverse: the adjoint transform.
    circuit: apply the n (n + 1) / 2 gates to the state vector instead of the FFT that they
        amount to (Coppersmith, 1994); the results agree to rounding.

    Raises InputError for a length that is no power of two, more than 22 qubits, or values that are
    not finite.
    """
    try:
        state = np.array(values, dtype=np.complex128)
    except (TypeError, ValueError):
        raise InputError("wants numbers", field="values") from None
    size = len(state) if state.ndim == 1 else 0
    if size < 1 or size & (size - 1) or size > 2**MAX_QUBITS:
        raise InputError(
            f"wants shape (2^n,) with n at most {MAX_QUBITS}, got {state.shape}", field="values"
        )
    if not np.isfinite(state).all():
        raise InputError("holds a number that is not finite", field="values")
    if not circuit:
        transform = np.fft.fft if inverse else np.fft.ifft
        return np.asarray(transform(state, norm="ortho"))
    return _gates(state, -1.0 if inverse else 1.0)


def _gates(state: NDArray[np.complex128], sign: float) -> NDArray[np.complex128]:
    """H and controlled phases from the highest qubit down, then the order of bits reversed. The
    gates are symmetric, so conjugating the phases gives the adjoint.
    """
    n = len(state).bit_length() - 1
    index = np.arange(len(state))
    for target in range(n - 1, -1, -1):
        block = state.reshape(-1, 2, 1 << target)
        state = np.stack(
            [block[:, 0] + block[:, 1], block[:, 0] - block[:, 1]], axis=1
        ).ravel() * np.sqrt(0.5)
        for control in range(target):
            both = (index >> target) & (index >> control) & 1
            state = state * np.exp(sign * 1j * np.pi * both / (1 << (target - control)))
    return np.asarray(state.reshape((2,) * n).transpose(range(n - 1, -1, -1)).ravel())
