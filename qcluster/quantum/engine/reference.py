"""QAOA circuits on a product space in plain NumPy: what every faster engine is held against.

A state is a complex array (size,) over ``Space``, axis 0 fastest. One layer is exp(-i beta B)
exp(-i gamma C) with C diagonal. Mixers B, each commuting with the set of feasible states:

- ``x``: sum of X over all qubits (only on spaces whose axes are all single qubits);
- ``xy_complete``: (XX + YY) / 2 over all pairs of each one-hot group; on its k one-hot levels that
  is 11^T - I, so exp(-i beta B) = e^{i beta} (I + (e^{-i beta k} - 1) / k 11^T);
- ``xy_ring``: the same over neighbours on a ring: a circulant matrix, whose exponential is exact
  (no Trotter steps);
- ``grover``: |F><F| with F the uniform superposition of all feasible states.

A qubit outside all groups gets X under the XY mixers, which is what 11^T - I is for two levels.
Sources: Hadfield et al. (2019) for XY, Baertschi and Eidenbenz (2020) for Grover; gradients by the
adjoint method (Jones and Gacon, 2020): with lambda = C psi and both taken back layer by layer,
dE/dgamma = 2 Im <lambda|C|psi> and dE/dbeta = 2 Im <lambda|B|psi>.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qcluster.quantum.space import Space

__all__ = ["MIXERS", "apply_mixer", "evolve", "mixer_terms", "ring_matrix", "uniform",
           "value_and_grad"]  # fmt: skip

MIXERS = ("x", "xy_ring", "xy_complete", "grover")

Complex = NDArray[np.complex128]
Floats = NDArray[np.float64]


def uniform(space: Space) -> Complex:
    """The uniform superposition: |+> on qubits, W states on groups."""
    return np.full(space.size, space.size**-0.5, dtype=np.complex128)


def apply_mixer(psi: Complex, space: Space, mixer: str, beta: float | Floats) -> Complex:
    """exp(-i beta B) psi. ``beta`` is one angle, or (n,) of them for the x mixer."""
    if mixer == "grover":
        shift: complex = (np.exp(-1j * float(beta)) - 1) / space.size * psi.sum()
        return np.add(psi, shift)
    inner = 1
    betas = np.broadcast_to(beta, (space.n,))
    for axis, k in zip(space.axes, space.shape, strict=True):
        angle = float(betas[axis.variables[0]])
        block = psi.reshape(-1, k, inner)
        if mixer == "xy_ring":
            psi = (ring_matrix(k, angle) @ block).ravel()
        else:
            mean = block.sum(axis=1, keepdims=True) * ((np.exp(-1j * angle * k) - 1) / k)
            psi = (np.exp(1j * angle) * (block + mean)).ravel()
        inner *= k
    return psi


def mixer_terms(psi: Complex, space: Space, mixer: str) -> list[Complex]:
    """B_q psi for every term of B = sum_q B_q: one an axis, or one in all for Grover."""
    if mixer == "grover":
        return [np.full_like(psi, psi.sum() / space.size)]
    terms = []
    inner = 1
    for k in space.shape:
        block = psi.reshape(-1, k, inner)
        if mixer == "xy_ring":
            terms.append((_ring(k) @ block).ravel())
        else:
            terms.append((block.sum(axis=1, keepdims=True) - block).ravel())
        inner *= k
    return terms


def ring_matrix(k: int, beta: float) -> Complex:
    """exp(-i beta A) with A the adjacency matrix of a ring of k levels, (k, k)."""
    spectrum = np.fft.fft(_ring(k)[0]).real
    column: Complex = np.fft.ifft(np.exp(-1j * beta * spectrum))
    return np.asarray(column[(np.arange(k)[:, None] - np.arange(k)) % k])


def evolve(
    space: Space, mixer: str, phases: Sequence[Floats], gammas: Floats, betas: Floats
) -> Complex:
    """The state after all layers; layer l has diagonal ``phases[l]``, gammas[l], betas[l]."""
    psi = uniform(space)
    for phase, gamma, beta in zip(phases, gammas, betas, strict=True):
        psi = apply_mixer(psi * np.exp(-1j * gamma * phase), space, mixer, beta)
    return psi


def value_and_grad(
    space: Space,
    mixer: str,
    diagonal: Floats,
    phases: Sequence[Floats],
    gammas: Floats,
    betas: Floats,
) -> tuple[float, list[Floats], list[Floats]]:
    """<C>, and for each layer w = 2 Im(conj(lambda) psi) before its phase (so that dE/dgamma =
    w . phase) and the derivative for each term of the mixer.
    """
    psi = evolve(space, mixer, phases, gammas, betas)
    back = diagonal * psi
    value = float(np.vdot(psi, back).real)
    weights: list[Floats] = []
    terms: list[Floats] = []
    for phase, gamma, beta in zip(phases[::-1], gammas[::-1], betas[::-1], strict=True):
        terms.append(
            np.array([2 * np.vdot(back, term).imag for term in mixer_terms(psi, space, mixer)])
        )
        psi = apply_mixer(psi, space, mixer, -beta)
        back = apply_mixer(back, space, mixer, -beta)
        weights.append(2 * (back.conj() * psi).imag)
        turn = np.exp(1j * gamma * phase)
        psi = psi * turn
        back = back * turn
    return value, weights[::-1], terms[::-1]


def _ring(k: int) -> Floats:
    """Adjacency of a ring: two levels have one edge, one level has none."""
    ring = np.zeros((k, k))
    for level in range(k if k > 2 else k - 1):
        other = (level + 1) % k
        ring[level, other] = ring[other, level] = 1.0
    return ring
