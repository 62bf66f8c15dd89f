"""Exact simulation of QAOA on an Ising problem (Farhi et al., 2014), with exact gradients.

``QAOASimulator`` holds the problem's energies as a diagonal over all configurations (full or
one-hot) and applies layers exp(-i beta B) exp(-i gamma C) to the uniform superposition. Mind what
that means: whoever holds the diagonal has already enumerated the problem, so no result of this
class is a quantum advantage. Minimising wants gamma > 0 and beta < 0 (or both flipped).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError
from qcluster.quantum.engine import reference
from qcluster.quantum.engine.levels import LevelEngine
from qcluster.quantum.engine.qubits import QubitEngine
from qcluster.quantum.engine.reference import MIXERS
from qcluster.quantum.problem import IsingProblem
from qcluster.quantum.space import Space

__all__ = ["MAX_BYTES", "QAOASimulator", "bytes_needed", "count", "walsh"]

MAX_BYTES = 8 * 2**30

Floats = NDArray[np.float64]


def bytes_needed(size: int) -> int:
    """Memory of a gradient over ``size`` amplitudes: the diagonal, two states, work space."""
    return size * (8 + 2 * 16 + 32)


def count(number: int) -> str:
    """A count for a message: digits, or the power of two when there would be too many."""
    return str(number) if number < 10**18 else f"about 2^{number.bit_length() - 1}"


class QAOASimulator:
    """QAOA circuits for one problem.

    Parameters
    ----------
    problem: the cost. Its one-hot groups shape the XY and Grover mixers' space.
    mixer: ``x`` (all 2^n states, groups not enforced), or ``xy_ring``, ``xy_complete``, ``grover``,
        which stay inside the feasible space: k levels a one-hot group, X on variables outside.
    max_bytes: memory that a simulation may take.

    Angles are in radians: ``gammas`` and ``betas`` (p,), a batch (B, p), or multi-angle (p, n)
    with one beta a qubit and J_ij scaled by (gamma_i + gamma_j) / 2 (Herrman et al., 2022; mixer
    ``x`` only). Two-dimensional angles whose last dimension is n are multi-angle unless
    ``multi_angle=False``; a batch of multi-angles is (B, p, n). All arithmetic is in float64.

    Raises
    ------
    InputError: unknown mixer, angles of wrong shape or not finite, or more memory than allowed
        (with the byte count).
    """

    def __init__(
        self, problem: IsingProblem, mixer: str = "x", *, max_bytes: int = MAX_BYTES
    ) -> None:
        if mixer not in MIXERS:
            raise InputError(f"'{mixer}' is none of {', '.join(MIXERS)}", field="mixer")
        self.problem, self.mixer = problem, mixer
        self.space = Space.of(problem, full=mixer == "x")
        needed = bytes_needed(self.space.size)
        if needed > max_bytes:
            raise InputError(
                f"{problem.n} spins need {count(needed)} bytes, at most {max_bytes} are allowed",
                field="problem",
            )
        self._engine = self._fast_engine()

    @functools.cached_property
    def diagonal(self) -> Floats:
        """(size,) energies without the offset, which would only cost digits."""
        if isinstance(self._engine, QubitEngine) and self._engine.mirrored:
            half = self._engine.diagonal
            return np.concatenate([half, half[::-1]])
        if self._engine is not None:
            return self._engine.diagonal
        return self.space.energies(self.problem.h, self.problem.edges, self.problem.weights)

    def expectation(
        self, gammas: ArrayLike, betas: ArrayLike, *, multi_angle: bool | None = None
    ) -> Any:
        """<E> of the final state, offset included: a float, or (B,) for a batch."""
        batch, single = self._angles(gammas, betas, multi_angle)
        values = [self._mean(g, b) for g, b in batch]
        return values[0] if single else np.array(values)

    def value_and_grad(
        self, gammas: ArrayLike, betas: ArrayLike, *, multi_angle: bool | None = None
    ) -> tuple[Any, Floats, Floats]:
        """<E>, d<E>/dgammas and d<E>/dbetas, exact, in the shapes of the angles."""
        batch, single = self._angles(gammas, betas, multi_angle)
        results = [self._value_and_grad(g, b) for g, b in batch]
        if single:
            return results[0]
        values, by_gamma, by_beta = zip(*results, strict=True) if results else ((), (), ())
        shape = np.shape(gammas)
        return (
            np.array(values, dtype=np.float64),
            np.array(by_gamma, dtype=np.float64).reshape(shape),
            np.array(by_beta, dtype=np.float64).reshape(shape),
        )

    def state(self, gammas: ArrayLike, betas: ArrayLike) -> NDArray[np.complex128]:
        """The final amplitudes (size,), for one set of angles."""
        batch, single = self._angles(gammas, betas, None)
        if not single:
            raise InputError("wants one set of angles, not a batch", field="gammas")
        return self._state(*batch[0])

    def probabilities(self, gammas: ArrayLike, betas: ArrayLike) -> Floats:
        """(size,) probability of every configuration; ``space.spins`` says which is which."""
        psi = self.state(gammas, betas)
        return np.asarray(psi.real**2 + psi.imag**2)

    def sample(
        self, gammas: ArrayLike, betas: ArrayLike, *, shots: int, seed: int
    ) -> NDArray[np.int8]:
        """Measured spins (shots, n)."""
        if isinstance(shots, bool) or not isinstance(shots, (int, np.integer)) or shots < 0:
            raise InputError(f"wants a whole number of at least 0, got {shots!r}", field="shots")
        cumulative = np.cumsum(self.probabilities(gammas, betas))
        draws = np.random.default_rng(seed).random(shots) * cumulative[-1]
        index = np.searchsorted(cumulative, draws, side="right")
        return self.space.spins(np.minimum(index, self.space.size - 1))

    def cvar(self, gammas: ArrayLike, betas: ArrayLike, *, alpha: float) -> float:
        """Mean energy of the best ``alpha`` share of measurements (Barkoutsos et al., 2020)."""
        if not 0 < alpha <= 1:
            raise InputError(f"wants a share in (0, 1], got {alpha}", field="alpha")
        probability = self.probabilities(gammas, betas)
        order = np.argsort(self.diagonal, kind="stable")
        before = np.cumsum(probability[order]) - probability[order]
        kept = np.clip(alpha - before, 0.0, probability[order])
        return float(kept @ self.diagonal[order] / kept.sum()) + self.problem.offset

    def _fast_engine(self) -> QubitEngine | LevelEngine | None:
        """The compiled engine for this space; None when there is nothing to mix."""
        problem, space = self.problem, self.space
        if space.size < 2:
            return None
        on_qubits = set(space.shape) == {2} and self.mixer != "grover"
        mirrored = on_qubits and space.size > 4 and not problem.h.any() and not problem.groups
        if mirrored:
            space = space.without_mirror()
        diagonal = space.energies(problem.h, problem.edges, problem.weights)
        if on_qubits:
            return QubitEngine(diagonal, mirrored=mirrored)
        return LevelEngine(diagonal, space.shape, self.mixer)

    def _fast(self, gammas: Floats) -> QubitEngine | LevelEngine | None:
        """The compiled engine if it takes these angles, one a layer."""
        engine = self._engine
        usable = engine is not None and gammas.ndim == 1 and len(gammas) and engine.takes(gammas)
        return engine if usable else None

    def _mean(self, gammas: Floats, betas: Floats) -> float:
        if (engine := self._fast(gammas)) is not None:
            return engine.expectation(gammas, betas) + self.problem.offset
        psi = self._state(gammas, betas)
        return float((psi.real**2 + psi.imag**2) @ self.diagonal) + self.problem.offset

    def _phases(self, gammas: Floats) -> tuple[list[Floats], Floats]:
        """A diagonal for each layer and the scalar angle that it is multiplied with."""
        if gammas.ndim == 1:
            return [self.diagonal] * len(gammas), gammas
        problem = self.problem
        left, right = problem.edges.T
        phases = [
            self.space.energies(
                gamma * problem.h, problem.edges, (gamma[left] + gamma[right]) / 2 * problem.weights
            )
            for gamma in gammas
        ]
        return phases, np.ones(len(gammas))

    def _state(self, gammas: Floats, betas: Floats) -> NDArray[np.complex128]:
        if (engine := self._fast(gammas)) is not None:
            return engine.state(gammas, betas)
        phases, angles = self._phases(gammas)
        return reference.evolve(self.space, self.mixer, phases, angles, betas)

    def _value_and_grad(self, gammas: Floats, betas: Floats) -> tuple[float, Floats, Floats]:
        if (engine := self._fast(gammas)) is not None:
            value, by_gamma, by_beta = engine.value_and_grad(gammas, betas)
            return value + self.problem.offset, by_gamma, by_beta
        phases, angles = self._phases(gammas)
        value, weights, terms = reference.value_and_grad(
            self.space, self.mixer, self.diagonal, phases, angles, betas
        )
        value += self.problem.offset
        if gammas.ndim == 1:
            by_gamma = np.array([w @ self.diagonal for w in weights])
            return value, by_gamma, np.array([term.sum() for term in terms])
        by_gamma = np.array([self._by_each_gamma(w) for w in weights]).reshape(gammas.shape)
        return value, by_gamma, np.array(terms).reshape(betas.shape)

    def _by_each_gamma(self, weight: Floats) -> Floats:
        """w . D_i with D_i = h_i z_i + z_i sum_j J_ij z_j / 2, from w's Walsh spectrum."""
        problem = self.problem
        spectrum = walsh(weight)
        left, right = problem.edges.T
        pairs = problem.weights * spectrum[(1 << left) | (1 << right)] / 2
        result: Floats = problem.h * spectrum[1 << np.arange(problem.n)]
        for end in (left, right):
            result += np.bincount(end, weights=pairs, minlength=problem.n)
        return result

    def _angles(
        self, gammas: ArrayLike, betas: ArrayLike, multi_angle: bool | None
    ) -> tuple[list[tuple[Floats, Floats]], bool]:
        """Pairs of angles, one an element of the batch, and whether there was no batch."""
        g, b = _angle_array(gammas, "gammas"), _angle_array(betas, "betas")
        if g.shape != b.shape:
            raise InputError(f"has shape {b.shape}, gammas has {g.shape}", field="betas")
        if g.ndim not in (1, 2, 3):
            raise InputError(f"wants (p,), (B, p) or (p, n), got shape {g.shape}", field="gammas")
        n = self.problem.n
        if multi_angle is None:
            multi_angle = g.ndim == 3 or (
                g.ndim == 2 and g.shape[1] == n and self.mixer == "x" and n > 0
            )
        multi = bool(multi_angle)
        if multi and (g.ndim == 1 or g.shape[-1] != n):
            raise InputError(f"multi-angle wants {n} a layer, got {g.shape}", field="gammas")
        if g.ndim == 3 and not multi:
            raise InputError(f"wants (p,) or (B, p), got shape {g.shape}", field="gammas")
        if multi and self.mixer != "x":
            raise InputError(f"multi-angle wants mixer x, not {self.mixer}", field="gammas")
        single = g.ndim == 1 + multi
        return [(g, b)] if single else list(zip(g, b, strict=True)), single


def _angle_array(values: ArrayLike, name: str) -> Floats:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError("wants angles", field=name) from None
    if not np.isfinite(array).all():
        raise InputError("holds an angle that is not finite", field=name)
    return array


def walsh(values: Floats) -> Floats:
    """sum_x values[x] (-1)^(popcount(x & k)) for all k; the length is a power of two."""
    spectrum, half = values.copy(), 1
    while half < len(spectrum):
        block = spectrum.reshape(-1, 2, half)
        spectrum = np.stack([block[:, 0] + block[:, 1], block[:, 0] - block[:, 1]], axis=1).ravel()
        half *= 2
    return spectrum
