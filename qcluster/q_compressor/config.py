"""The toggles of compression: one frozen object for Python, YAML, command line and HTTP."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qcluster.config import Config

__all__ = ["CompressorConfig"]


class CompressorConfig(Config):
    """How tensors are compressed.

    ``vqc``, ``denoiser`` and ``dropout`` offer paths to the lossy modes; each is taken for a tensor
    only where the bytes, its own cost included, come out smaller for the same promise. What each
    would have cost stands in the blob's report. Under ``lossless``, ``max_abs`` and ``point_rel``
    a path gives a coarse version, whose residual is coded so that the promise stands.
    """

    vqc: bool = False
    """Offer the variational quantum autoencoder as a transform of blocks."""
    denoiser: bool = False
    """Offer a residual convolution on the decoded tensor."""
    dropout: bool = False
    """Find channels (with ``vqc`` wires) that can be left out, by Monte Carlo."""
    states: Literal[8, 64] = 8
    """Trellis states of ``rel_l2`` and ``bits``: 64 are slower to encode, some .03 bit shorter."""
    effort: Literal["fast", "dense", "max"] = "dense"
    """Coding by tables of scales; of neighbours and leading bits too; or by mixed contexts that
    learn (a fifth of the speed, about a thousandth shorter). Of small tensors all but ``fast`` do.
    """
    transform: Literal["auto", "none", "dct", "hadamard", "fourier", "klt"] = "auto"
    """Of ``rel_l2`` and ``bits``: try them all, or this one. Where it is named, coarse versions
    under the other modes have it too.
    """
    layers: Annotated[int, Field(ge=1, le=32)] = 12
    """Entangling layers of the autoencoder: 12 on 4 qubits reach principal components."""
    qubits: Annotated[int, Field(ge=1, le=4)] = 4
    """Its wires; blocks have 2^qubits elements."""
    variance_threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Latent values with a smaller share of the energy are left out."""
    steps: Annotated[int, Field(ge=1, le=2000)] = 150
    """Training steps of the autoencoder."""
    gradient: Literal["backprop", "parameter_shift"] = "backprop"
    """How the circuit's gradient is found; both give the same to 1e-6."""
    trials: Annotated[int, Field(ge=2, le=10_000)] = 64
    """Monte Carlo trials of the dropout simulator."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of training and Monte Carlo."""
