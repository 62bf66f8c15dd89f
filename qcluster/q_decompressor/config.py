"""The toggles of decompression."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from qcluster.config import Config

__all__ = ["DecompressorConfig"]


class DecompressorConfig(Config):
    """What runs after the verified plain decode.

    Each step changes the output only where it does not break the blob's guarantee; the report says
    what ran, what it changed, and whether the guarantee still holds. On what was coded without
    loss nothing runs.
    """

    hhl: bool = False
    """Solve the autoencoder's normal equations by simulated HHL instead of by its adjoint."""
    qsvt: bool = False
    """Shrink singular values of matrices by a polynomial, as QSVT applies it."""
    qft: bool = False
    """Undo Fourier blocks through the circuit's transform, and compare."""
    lstm: bool = False
    """Add the recurrent network's correction."""
    clock_qubits: Annotated[int, Field(ge=2, le=12)] = 8
    """HHL's phase estimation."""
    max_condition: Annotated[float, Field(ge=1)] = 32.0
    """Beyond this condition number Cholesky takes over from HHL."""
    degree: Annotated[int, Field(ge=3, le=201)] = 101
    """Of QSVT's polynomial, odd."""
