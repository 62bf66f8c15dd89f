"""The XY and Grover mixers inside the feasible space of one-hot groups.

m groups of k variables take k^m amplitudes instead of 2^(mk): 48 qubits in 8 groups of 6 are 1.7
million. Exact to rounding against the reference engine, which in turn equals the circuit on all
2^(mk) states where that fits.
"""

from __future__ import annotations

import cmath

import numpy as np
from numpy.typing import NDArray

from qcluster.quantum.engine.levels import _kernels
from qcluster.quantum.engine.phase._kernels import (
    MAX_PHASE,
    apply_cost,
    begin,
    expectation,
    overlap,
    phase,
    unphase,
)
from qcluster.quantum.engine.reference import ring_matrix
from qcluster.quantum.engine.workspace import Workspaces

__all__ = ["LevelEngine"]

Floats = NDArray[np.float64]


class LevelEngine:
    """Parameters
    ----------
    diagonal: (prod(shape),) energies, axis 0 fastest.
    shape: levels of each axis.
    mixer: ``xy_complete``, ``xy_ring`` or ``grover``.

    Global phases are left out of the kernels and put back by ``state``.
    """

    def __init__(self, diagonal: Floats, shape: tuple[int, ...], mixer: str) -> None:
        self.diagonal, self.mixer = diagonal, mixer
        self.largest = float(np.abs(diagonal).max())
        strides = np.cumprod([1, *shape])[:-1].tolist()
        self.axes = [(k, inner) for k, inner in zip(shape, strides, strict=True) if k > 1]
        if mixer == "grover":
            self.axes = [(len(diagonal), 1)]
        self._work = Workspaces(len(diagonal), 4)

    def takes(self, gammas: Floats) -> bool:
        """Whether all phases are small enough for the fast sine."""
        return self.largest * float(np.abs(gammas).max(initial=0.0)) < MAX_PHASE

    def expectation(self, gammas: Floats, betas: Floats) -> float:
        """<C> for angles (p,), p >= 1."""
        with self._work.taken() as (re, im, *_):
            self._forward(re, im, gammas, betas)
            return float(expectation(re, im, self.diagonal))

    def value_and_grad(self, gammas: Floats, betas: Floats) -> tuple[float, Floats, Floats]:
        """<C> and its derivatives, each (p,), p >= 1."""
        by_gamma, by_beta = np.empty_like(gammas), np.empty_like(betas)
        with self._work.taken() as states:
            pr, pi, lr, li = states
            self._forward(pr, pi, gammas, betas)
            value = apply_cost(pr, pi, lr, li, self.diagonal)
            for layer in reversed(range(len(gammas))):
                by_beta[layer] = 2 * self._unmix(states, -float(betas[layer]))
                by_gamma[layer] = 2 * (
                    unphase(pr, pi, lr, li, self.diagonal, gammas[layer])
                    if layer
                    else overlap(pr, pi, lr, li, self.diagonal)
                )
        return float(value), by_gamma, by_beta

    def state(self, gammas: Floats, betas: Floats) -> NDArray[np.complex128]:
        """All amplitudes."""
        with self._work.taken() as (re, im, *_):
            self._forward(re, im, gammas, betas)
            psi = re + 1j * im
        if self.mixer == "grover":
            return psi
        spreading = sum(not self._on_ring(k) for k, _ in self.axes)
        return psi * cmath.exp(1j * spreading * float(betas.sum()))

    def _forward(self, re: Floats, im: Floats, gammas: Floats, betas: Floats) -> None:
        for layer, (gamma, beta) in enumerate(zip(gammas, betas, strict=True)):
            if layer:
                phase(re, im, self.diagonal, gamma)
            else:
                begin(re, im, self.diagonal, gamma, len(re) ** -0.5)
            for k, inner in self.axes:
                self._mix(re, im, k, inner, float(beta))

    def _mix(self, re: Floats, im: Floats, k: int, inner: int, beta: float) -> None:
        if self._on_ring(k):
            column = ring_matrix(k, beta)[:, 0]
            _kernels.circulate(re, im, k, inner, column.real.copy(), column.imag.copy())
            return
        turn = beta if self.mixer == "grover" else beta * k
        factor = (cmath.exp(-1j * turn) - 1) / k
        _kernels.spread(re, im, k, inner, factor.real, factor.imag)

    def _unmix(self, states: list[Floats], beta: float) -> float:
        """Mixes psi and lambda by ``beta``; returns Im <lambda|B|psi>."""
        pr, pi, lr, li = states
        slope = 0.0
        for k, inner in self.axes:
            if self._on_ring(k):
                slope += _kernels.ring_overlap(pr, pi, lr, li, k, inner)
            else:
                # Im <lambda|psi> is 0 throughout, so the identity in 11^T - I drops out.
                share = _kernels.sums_overlap(pr, pi, lr, li, k, inner)
                slope += share / k if self.mixer == "grover" else share
            self._mix(pr, pi, k, inner, beta)
            self._mix(lr, li, k, inner, beta)
        return slope

    def _on_ring(self, k: int) -> bool:
        """A ring of up to three levels is complete."""
        return self.mixer == "xy_ring" and k > 3
