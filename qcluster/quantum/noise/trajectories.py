"""Quantum trajectories (Dalibard, Castin and Molmer, 1992): pure states that jump at random.

The mean of |psi><psi| over trajectories is the density matrix, at 2^n numbers instead of 4^n.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError
from qcluster.quantum.noise.channels import Channel

__all__ = ["apply_jump"]

Complex = NDArray[np.complex128]


def apply_jump(
    psi: Complex, channel: Channel, qubit: int, generator: np.random.Generator
) -> Complex:
    """One Kraus operator of a single-qubit channel, drawn with its Born probability, applied to
    ``qubit`` of the normalised psi (2^n,); the result is normalised.
    """
    if channel.qubits != 1:
        raise InputError(f"acts on {channel.qubits} qubits, wants 1", field="channel")
    block = psi.reshape(-1, 2, 1 << qubit)
    # The reduced state of the qubit is enough to know every operator's probability.
    reduced = np.einsum("aib,ajb->ij", block, block.conj())
    weights = np.einsum("mij,jk,mik->m", channel.kraus, reduced, channel.kraus.conj()).real
    weights = np.maximum(weights, 0.0)
    chosen = int(generator.choice(len(weights), p=weights / weights.sum()))
    jumped = np.einsum("ij,ajb->aib", channel.kraus[chosen], block).ravel()
    return np.asarray(jumped / np.sqrt(weights[chosen]))
