"""The four kinds of noise as Kraus operators.

``depolarizing`` with level p takes rho to (1 - p) rho + p I / d: at p = 1 nothing is left. (Qiskit
Aer counts the same way; PennyLane's DepolarizingChannel(q) is this one with q = 3p/4.)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError

__all__ = [
    "CHANNELS",
    "Channel",
    "amplitude_damping",
    "channel",
    "depolarizing",
    "phase_damping",
    "thermal",
]

Complex = NDArray[np.complex128]

PLANCK_J_S = 6.62607015e-34
BOLTZMANN_J_K = 1.380649e-23


@dataclass(frozen=True, eq=False)
class Channel:
    """A completely positive, trace-preserving map: rho -> sum_k K_k rho K_k^dagger.

    ``kraus`` is (m, d, d) with d = 2^qubits; the first qubit is the least significant bit.
    Raises InputError when the operators do not add up to the identity.
    """

    name: str
    kraus: Complex

    def __post_init__(self) -> None:
        total = np.einsum("kij,kil->jl", self.kraus.conj(), self.kraus)
        if not np.allclose(total, np.eye(self.kraus.shape[-1]), atol=1e-12):
            raise InputError("Kraus operators do not preserve the trace", field=self.name)

    @property
    def qubits(self) -> int:
        """How many qubits it acts on."""
        return int(self.kraus.shape[-1]).bit_length() - 1

    @functools.cached_property
    def superoperator(self) -> Complex:
        """(d, d, d, d) array S with rho'_ij = sum_kl S_ijkl rho_kl."""
        return np.asarray(np.einsum("mik,mjl->ijkl", self.kraus, self.kraus.conj()))


def depolarizing(p: float, qubits: int = 1) -> Channel:
    """rho -> (1 - p) rho + p I / 2^qubits, p in [0, 1]; one or two qubits."""
    p = _share(p, "p")
    if qubits not in (1, 2):
        raise InputError(f"wants 1 or 2, got {qubits}", field="qubits")
    paulis = [
        np.eye(2, dtype=complex),
        np.array([[0, 1], [1, 0]], dtype=complex),
        np.array([[0, -1j], [1j, 0]]),
        np.diag([1.0 + 0j, -1.0]),
    ]
    products = paulis if qubits == 1 else [np.kron(a, b) for a in paulis for b in paulis]
    share = p / len(products)
    weights = [1 - p + share] + [share] * (len(products) - 1)
    kraus = [math.sqrt(w) * matrix for w, matrix in zip(weights, products, strict=True)]
    return Channel("depolarizing", np.array(kraus))


def amplitude_damping(gamma: float) -> Channel:
    """|1> decays to |0> with probability gamma in [0, 1]."""
    gamma = _share(gamma, "gamma")
    keep = np.diag([1.0, math.sqrt(1 - gamma)]).astype(complex)
    decay = np.array([[0, math.sqrt(gamma)], [0, 0]], dtype=complex)
    return Channel("amplitude_damping", np.array([keep, decay]))


def phase_damping(gamma: float) -> Channel:
    """Coherences shrink by sqrt(1 - gamma), gamma in [0, 1]; populations stay."""
    gamma = _share(gamma, "gamma")
    keep = np.diag([1.0, math.sqrt(1 - gamma)]).astype(complex)
    scatter = np.diag([0.0, math.sqrt(gamma)]).astype(complex)
    return Channel("phase_damping", np.array([keep, scatter]))


def thermal(
    t_s: float,
    *,
    t1_s: float,
    t2_s: float,
    excited: float | None = None,
    temperature_k: float | None = None,
    frequency_hz: float | None = None,
) -> Channel:
    """Relaxation for a time ``t_s`` with times T1 (energy) and T2 (phase), 0 < T2 <= 2 T1.

    Populations approach ``excited`` in |1> as e^(-t/T1), coherences shrink by e^(-t/T2). The
    equilibrium is given directly, or as 1 / (1 + e^(hf / kT)) of a temperature and a frequency;
    without either it is 0 (a cold bath).
    """
    t_s = _positive(t_s, "t_s", zero=True)
    t1_s, t2_s = _positive(t1_s, "t1_s"), _positive(t2_s, "t2_s")
    if t2_s > 2 * t1_s * (1 + 1e-12):
        raise InputError(
            f"T2 is {t2_s} s, physics allows at most 2 T1 = {2 * t1_s} s", field="t2_s"
        )
    population = _equilibrium(excited, temperature_k, frequency_hz)
    decay, coherence = -math.expm1(-t_s / t1_s), math.exp(-t_s / t2_s)
    up, down = population * decay, (1 - population) * decay
    # Choi matrix in the basis |input, output>: two jumps, and a block that keeps coherence.
    block = np.array([[1 - up, coherence], [coherence, 1 - down]])
    values, vectors = np.linalg.eigh(block)
    kraus = [
        math.sqrt(max(value, 0.0)) * np.diag(vector).astype(complex)
        for value, vector in zip(values, vectors.T, strict=True)
    ]
    kraus.append(np.array([[0, math.sqrt(down)], [0, 0]], dtype=complex))
    kraus.append(np.array([[0, 0], [math.sqrt(up), 0]], dtype=complex))
    return Channel("thermal", np.array(kraus))


def channel(name: str, level: float) -> Channel:
    """The channel of this name at a noise level in [0, 1].

    For ``thermal`` the level is 1 - e^(-t/T1) with T2 = T1 and a cold bath (level 1: T1 -> 0).
    Raises InputError for an unknown name or a level outside [0, 1].
    """
    try:
        make = CHANNELS[name]
    except KeyError:
        known = ", ".join(sorted(CHANNELS))
        raise InputError(f"'{name}' is none of {known}", field="noise_model") from None
    return make(_share(level, "noise_level"))


def _thermal_at(level: float) -> Channel:
    # t / T1 = -log(1 - level); at level 1 any time that underflows the exponential will do.
    return thermal(-math.log1p(-level) if level < 1 else 800.0, t1_s=1.0, t2_s=1.0)


CHANNELS: dict[str, Callable[[float], Channel]] = {
    "depolarizing": depolarizing,
    "amplitude_damping": amplitude_damping,
    "phase_damping": phase_damping,
    "thermal": _thermal_at,
}


def _equilibrium(
    excited: float | None, temperature_k: float | None, frequency_hz: float | None
) -> float:
    if temperature_k is None and frequency_hz is None:
        return 0.0 if excited is None else _share(excited, "excited")
    if excited is not None or temperature_k is None or frequency_hz is None:
        raise InputError(
            "wants excited alone, or temperature_k and frequency_hz together", field="excited"
        )
    temperature_k = _positive(temperature_k, "temperature_k", zero=True)
    frequency_hz = _positive(frequency_hz, "frequency_hz")
    if temperature_k == 0:
        return 0.0
    ratio = PLANCK_J_S * frequency_hz / (BOLTZMANN_J_K * temperature_k)
    return 0.0 if ratio > 700 else 1 / (1 + math.exp(ratio))


def _share(value: float, name: str) -> float:
    if not 0 <= value <= 1:
        raise InputError(f"wants a number in [0, 1], got {value}", field=name)
    return float(value)


def _positive(value: float, name: str, *, zero: bool = False) -> float:
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        bound = "of at least 0" if zero else "above 0"
        raise InputError(f"wants a finite number {bound}, got {value}", field=name)
    return float(value)
