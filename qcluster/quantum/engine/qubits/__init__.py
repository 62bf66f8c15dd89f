"""The X mixer on all 2^n states: the fast engine for problems without one-hot groups.

Against the reference engine it is exact to rounding; the tests hold them together at 1e-12 of the
problem's scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qcluster.quantum.engine.phase._kernels import MAX_PHASE, expectation
from qcluster.quantum.engine.qubits import _kernels
from qcluster.quantum.engine.workspace import Workspaces

__all__ = ["QubitEngine"]

Floats = NDArray[np.float64]


class QubitEngine:
    """Parameters
    ----------
    diagonal: (2^m,) energies; the whole diagonal, m = n, or, ``mirrored``, its half with the last
        spin +1 of a problem with E(z) = E(-z), m = n - 1 >= 2.
    """

    def __init__(self, diagonal: Floats, *, mirrored: bool) -> None:
        self.diagonal, self.mirrored = diagonal, mirrored
        self.largest = float(np.abs(diagonal).max())
        self._work = Workspaces(len(diagonal), 4)

    def takes(self, gammas: Floats) -> bool:
        """Whether all phases are small enough for its fast sine."""
        return self.largest * float(np.abs(gammas).max(initial=0.0)) < MAX_PHASE

    def expectation(self, gammas: Floats, betas: Floats) -> float:
        """<C> for angles (p,), p >= 1."""
        with self._work.taken() as (re, im, *_):
            _kernels.forward(re, im, self.diagonal, gammas, betas, self.mirrored)
            return float(expectation(re, im, self.diagonal))

    def value_and_grad(
        self, gammas: Floats, betas: Floats, observable: Floats | None = None
    ) -> tuple[float, Floats, Floats]:
        """<observable> (by default <C>; as long as ``diagonal``), its derivatives, each (p,),
        p >= 1.
        """
        by_gamma, by_beta = np.empty_like(gammas), np.empty_like(betas)
        measured = self.diagonal if observable is None else observable
        with self._work.taken() as (re, im, lr, li):
            _kernels.forward(re, im, self.diagonal, gammas, betas, self.mirrored)
            value = _kernels.backward(
                re, im, lr, li, self.diagonal, measured, gammas, betas, self.mirrored,
                by_gamma, by_beta,
            )  # fmt: skip
        return float(value), by_gamma, by_beta

    def state(
        self, phases: Sequence[Floats], gammas: Floats, betas: Floats
    ) -> NDArray[np.complex128]:
        """All 2^n amplitudes. As the general engines', but it knows one diagonal, its own, and one
        angle a layer: the first of each row.
        """
        del phases
        with self._work.taken() as (re, im, *_):
            first = np.ascontiguousarray(betas[:, 0])
            _kernels.forward(re, im, self.diagonal, gammas, first, self.mirrored)
            psi = re + 1j * im
        if self.mirrored:
            psi = np.concatenate([psi, psi[::-1]]) * np.sqrt(0.5)
        return psi
