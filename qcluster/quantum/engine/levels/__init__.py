"""Every mixer on every space: XY and Grover inside the feasible space of one-hot groups, warm
starts, and an angle for each term.

m groups of k variables take k^m amplitudes instead of 2^(mk): 48 qubits in 8 groups of 6 are 1.7
million. Exact to rounding against the reference engine, which in turn equals the circuit on all
2^(mk) states where that fits.
"""

from __future__ import annotations

import cmath
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qcluster.quantum.engine.levels import _kernels
from qcluster.quantum.engine.mixing import Mixing
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
    diagonal: (size,) energies, axis 0 fastest.
    mixing: the mixer, its space and its warm start.

    Global phases are left out of the kernels and put back by ``state``.
    """

    def __init__(self, diagonal: Floats, mixing: Mixing) -> None:
        self.diagonal, self.mixing, self.mixer = diagonal, mixing, mixing.mixer
        self.largest = float(np.abs(diagonal).max())
        shape = mixing.space.shape
        strides = np.cumprod([1, *shape])[:-1].tolist()
        # Of each axis: its term, its levels, its stride and its lean.
        self._axes: list[tuple[int, int, int, Floats | None]] = [
            (number, k, inner, None if mixing.leans is None else mixing.leans[number])
            for number, (k, inner) in enumerate(zip(shape, strides, strict=True))
            if k > 1
        ]
        if self.mixer == "grover":
            self._axes = [(0, len(diagonal), 1, mixing.start)]
        self._work = Workspaces(len(diagonal), 4)

    def takes(self, gammas: Floats, largest: float | None = None) -> bool:
        """Whether all phases are small enough for the fast sine."""
        most = self.largest if largest is None else largest
        return most * float(np.abs(gammas).max(initial=0.0)) < MAX_PHASE

    def expectation(self, gammas: Floats, betas: Floats) -> float:
        """<C> for one angle a layer, (p,), p >= 1."""
        with self._work.taken() as (re, im, *_):
            self._forward(re, im, [self.diagonal] * len(gammas), gammas, self._each(betas))
            return float(expectation(re, im, self.diagonal))

    def value_and_grad(
        self, gammas: Floats, betas: Floats, observable: Floats | None = None
    ) -> tuple[float, Floats, Floats]:
        """<observable> (by default <C>) and its derivatives; one angle a layer, (p,), p >= 1."""
        by_gamma, slopes = np.empty_like(gammas), np.empty((len(gammas), self.mixing.terms))
        measured = self.diagonal if observable is None else observable
        with self._work.taken() as states:
            each = self._each(betas)
            self._forward(states[0], states[1], [self.diagonal] * len(gammas), gammas, each)
            value = apply_cost(*states, measured)
            for layer in reversed(range(len(gammas))):
                slopes[layer] = self._unmix(states, each[layer])
                by_gamma[layer] = 2 * (
                    unphase(*states, self.diagonal, gammas[layer])
                    if layer
                    else overlap(*states, self.diagonal)
                )
        return float(value), by_gamma, slopes.sum(axis=1)

    def value_and_weights(
        self, phases: Sequence[Floats], gammas: Floats, betas: Floats, observable: Floats
    ) -> tuple[float, list[Floats], Floats]:
        """As the reference engine's, p >= 1."""
        slopes = np.empty_like(betas)
        weights: list[Floats] = []
        with self._work.taken() as states:
            self._forward(states[0], states[1], phases, gammas, betas)
            value = apply_cost(*states, observable)
            for layer in reversed(range(len(gammas))):
                slopes[layer] = self._unmix(states, betas[layer])
                pr, pi, lr, li = states
                weights.append(2 * (lr * pi - li * pr))
                unphase(*states, phases[layer], gammas[layer])
        return float(value), weights[::-1], slopes

    def state(
        self, phases: Sequence[Floats], gammas: Floats, betas: Floats
    ) -> NDArray[np.complex128]:
        """All amplitudes, for angles (p,) and (p, terms), p >= 1."""
        with self._work.taken() as (re, im, *_):
            self._forward(re, im, phases, gammas, betas)
            psi = re + 1j * im
        if self.mixer == "grover":
            return psi
        # A term on one level does nothing, so it has no phase.
        spreading = [number for number, k, _, _ in self._axes if not self._on_ring(k)]
        return psi * cmath.exp(1j * float(betas[:, spreading].sum()))

    def _each(self, betas: Floats) -> Floats:
        return np.repeat(betas[:, None], self.mixing.terms, axis=1)

    def _forward(
        self, re: Floats, im: Floats, phases: Sequence[Floats], gammas: Floats, betas: Floats
    ) -> None:
        start = self.mixing.start
        for layer, (gamma, row) in enumerate(zip(gammas, betas, strict=True)):
            if layer:
                phase(re, im, phases[layer], gamma)
            elif start is None:
                begin(re, im, phases[0], gamma, len(re) ** -0.5)
            else:
                re[:] = start
                im[:] = 0.0
                phase(re, im, phases[0], gamma)
            for number, k, inner, lean in self._axes:
                self._mix(re, im, k, inner, lean, float(row[number]))

    def _mix(
        self, re: Floats, im: Floats, k: int, inner: int, lean: Floats | None, beta: float
    ) -> None:
        if self._on_ring(k):
            column = ring_matrix(k, beta)[:, 0]
            _kernels.circulate(re, im, k, inner, column.real.copy(), column.imag.copy())
            return
        factor = cmath.exp(-1j * (beta if self.mixer == "grover" else beta * k)) - 1
        if lean is None:
            _kernels.spread(re, im, k, inner, factor.real / k, factor.imag / k)
        else:
            _kernels.lean(re, im, k, inner, lean, factor.real, factor.imag)

    def _unmix(self, states: list[Floats], betas: Floats) -> Floats:
        """Takes psi and lambda back through the mixer; 2 Im <lambda|B_q|psi> of every term."""
        pr, pi, lr, li = states
        slopes = np.zeros(len(betas))
        for number, k, inner, lean in self._axes:
            if self._on_ring(k):
                share = _kernels.ring_overlap(pr, pi, lr, li, k, inner)
            elif lean is not None:
                share = _kernels.lean_overlap(pr, pi, lr, li, k, inner, lean)
                share *= 1 if self.mixer == "grover" else k
            else:
                # Im <lambda|psi> is 0 throughout, so the identity in 11^T - I drops out.
                share = _kernels.sums_overlap(pr, pi, lr, li, k, inner)
                share /= k if self.mixer == "grover" else 1
            slopes[number] = 2 * share
            self._mix(pr, pi, k, inner, lean, -float(betas[number]))
            self._mix(lr, li, k, inner, lean, -float(betas[number]))
        return slopes

    def _on_ring(self, k: int) -> bool:
        """A ring of up to three levels is complete."""
        return self.mixer == "xy_ring" and k > 3
