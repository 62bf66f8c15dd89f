"""QAOA circuits on a product space in plain NumPy: what every faster engine is held against, and
what runs where numba cannot be had.

A state is a complex array (size,) over ``Space``, axis 0 fastest. One layer is exp(-i beta B)
exp(-i gamma C) with C diagonal; ``qcluster.quantum.engine.mixing`` lists the mixers B. Gradients by
the adjoint method (Jones and Gacon, 2020): with lambda = C psi and both taken back layer by layer,
dE/dgamma = 2 Im <lambda|C|psi> and dE/dbeta = 2 Im <lambda|B|psi>.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qcluster.quantum.engine.mixing import MIXERS, Mixing, ring_adjacency

__all__ = ["MIXERS", "ReferenceEngine", "apply_mixer", "mixer_terms", "ring_matrix"]

Complex = NDArray[np.complex128]
Floats = NDArray[np.float64]


class ReferenceEngine:
    """The interface that general engines share; ``phases`` (p arrays of (size,)) are multiplied by
    ``gammas`` (p,), ``betas`` are (p, terms).
    """

    def __init__(self, mixing: Mixing) -> None:
        self.mixing = mixing

    def state(self, phases: Sequence[Floats], gammas: Floats, betas: Floats) -> Complex:
        """The amplitudes after all layers."""
        size = self.mixing.space.size
        start = self.mixing.start
        psi: Complex = np.full(size, size**-0.5, dtype=np.complex128)
        if start is not None:
            psi = start.astype(np.complex128)
        for phase, gamma, beta in zip(phases, gammas, betas, strict=True):
            psi = apply_mixer(psi * np.exp(-1j * gamma * phase), self.mixing, beta)
        return psi

    def value_and_weights(
        self, phases: Sequence[Floats], gammas: Floats, betas: Floats, observable: Floats
    ) -> tuple[float, list[Floats], Floats]:
        """<observable>, for each layer w = 2 Im(conj(lambda) psi) before its phase (so that
        dE/dgamma = w . phase), and the derivatives (p, terms) by betas.
        """
        psi = self.state(phases, gammas, betas)
        back = observable * psi
        value = float(np.vdot(psi, back).real)
        weights: list[Floats] = []
        slopes = np.empty_like(betas)
        for layer in reversed(range(len(gammas))):
            images = mixer_terms(psi, self.mixing)
            slopes[layer] = [2 * np.vdot(back, image).imag for image in images]
            psi = apply_mixer(psi, self.mixing, -betas[layer])
            back = apply_mixer(back, self.mixing, -betas[layer])
            weights.append(2 * (back.conj() * psi).imag)
            turn = np.exp(1j * gammas[layer] * phases[layer])
            psi = psi * turn
            back = back * turn
        return value, weights[::-1], slopes


def apply_mixer(psi: Complex, mixing: Mixing, betas: Floats) -> Complex:
    """exp(-i sum_q beta_q B_q) psi for ``betas`` (terms,)."""
    if mixing.mixer == "grover":
        factor: complex = np.exp(-1j * float(betas[0])) - 1
        start = mixing.start
        change = psi.sum() / len(psi) if start is None else start * (start @ psi)
        return np.asarray(psi + factor * change)
    inner = 1
    for number, k in enumerate(mixing.space.shape):
        beta = float(betas[number])
        block = psi.reshape(-1, k, inner)
        if mixing.mixer == "xy_ring":
            psi = (ring_matrix(k, beta) @ block).ravel()
        else:
            mean = _projected(block, mixing, number) * (np.exp(-1j * beta * k) - 1)
            psi = (np.exp(1j * beta) * (block + mean)).ravel()
        inner *= k
    return psi


def mixer_terms(psi: Complex, mixing: Mixing) -> list[Complex]:
    """B_q psi for every term of B = sum_q B_q: one an axis, or one in all for Grover."""
    if mixing.mixer == "grover":
        if (start := mixing.start) is not None:
            return [start * (start @ psi)]
        return [np.full_like(psi, psi.sum() / len(psi))]
    terms = []
    inner = 1
    for number, k in enumerate(mixing.space.shape):
        block = psi.reshape(-1, k, inner)
        if mixing.mixer == "xy_ring":
            terms.append((ring_adjacency(k) @ block).ravel())
        else:
            terms.append((k * _projected(block, mixing, number) - block).ravel())
        inner *= k
    return terms


def ring_matrix(k: int, beta: float) -> Complex:
    """exp(-i beta A) with A the adjacency matrix of a ring of k levels, (k, k): exact, no Trotter
    steps.
    """
    spectrum = np.fft.fft(ring_adjacency(k)[0]).real
    column: Complex = np.fft.ifft(np.exp(-1j * beta * spectrum))
    return np.asarray(column[(np.arange(k)[:, None] - np.arange(k)) % k])


def _projected(block: Complex, mixing: Mixing, number: int) -> Complex:
    """|w><w| along the middle axis of ``block``, w uniform without a warm start."""
    if mixing.leans is None:
        return np.asarray(block.sum(axis=1, keepdims=True) / block.shape[1])
    lean = mixing.leans[number][:, None]
    return np.asarray(lean * (lean * block).sum(axis=1, keepdims=True))
