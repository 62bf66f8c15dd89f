"""What ``quantum_config`` may say: how a module's attention is computed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from qcluster.config import Config

__all__ = ["BACKENDS", "QuantumConfig"]

BACKENDS = ("classical", "simulation", "hardware")


class QuantumConfig(Config):
    """How ``QuantumMultiheadAttention`` computes. The defaults are exact attention."""

    backend: str = "classical"
    """``classical`` (exact), ``simulation`` (noisy measurement of sum sqrt(p_j) |j>), ``hardware``
    (the same state at a quantum backend, with the built-in simulator as way back), or the name of
    a sampler: naive, stratified, systematic, adaptive, hybrid, varopt."""
    num_samples: Annotated[int, Field(ge=1, le=2**20)] = 32
    """Value rows a query (samplers), measurements a query (simulation, hardware)."""
    budget: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of 16-bit key and value bytes a query may read, in place of ``num_samples``."""
    control_variate: Literal["auto", "none", "constant", "block", "lowbit"] = "auto"
    """Stand-in for the values that sampling then only corrects."""
    criterion: Literal["variance", "entropy"] = "variance"
    """What ``adaptive`` shares its samples by."""
    error_mitigation: bool = False
    """Extrapolate a noisy backend to zero noise; does nothing on a path without noise."""
    noise_model: Literal["depolarizing", "amplitude_damping", "phase_damping", "thermal"] = (
        "depolarizing"
    )
    """Noise of the simulation."""
    noise_level: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Its level."""
    certificate: bool = False
    """Whether ``last_report`` has a bound for every row."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Chance that a bound fails."""
    eps: Annotated[float, Field(gt=0)] | None = None
    """Refine every row until its bound is at most eps of its length."""
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0
    """Of all draws; call number c draws with seed and c."""
    sample_in_training: bool = False
    """Whether training sees the sampler too (gradients keep the drawn rows fixed)."""
    backends: tuple[str, ...] = ()
    """Quantum backends by preference, for ``hardware``: ``ibm:auto``, ``lightning.qubit``, ..."""
    deadline_s: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """Time for a quantum backend's answer."""

    @field_validator("backend")
    @classmethod
    def _known(cls, name: str) -> str:
        from qcluster.q_attention.samplers import SAMPLERS

        if name not in BACKENDS and name not in SAMPLERS.names():
            known = ", ".join((*BACKENDS, *SAMPLERS.names()))
            raise ValueError(f"'{name}' is none of {known}")
        return name
