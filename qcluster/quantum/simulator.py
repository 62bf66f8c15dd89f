"""Exact simulation of QAOA on an Ising problem (Farhi et al., 2014), with exact gradients.

``QAOASimulator`` holds the problem's energies as a diagonal over all configurations (full or
one-hot) and applies layers exp(-i beta B) exp(-i gamma C) to the uniform superposition, or to a
warm start. Mind what that means: whoever holds the diagonal has already enumerated the problem, so
no result of this class is a quantum advantage. Minimising wants gamma > 0 and beta < 0 (or both
flipped).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError
from qcluster.quantum.engine.mixing import MIXERS, Mixing, leans_of
from qcluster.quantum.engine.reference import ReferenceEngine
from qcluster.quantum.problem import IsingProblem
from qcluster.quantum.space import Space

if TYPE_CHECKING:
    from qcluster.quantum.engine.levels import LevelEngine
    from qcluster.quantum.engine.qubits import QubitEngine

__all__ = ["ENGINES", "MAX_BYTES", "MIXERS", "QAOASimulator", "bytes_needed", "count"]

MAX_BYTES = 8 * 2**30
ENGINES = ("auto", "numba", "numpy")

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
    warm_start: (n,) expected spins in [-1, 1]; the circuit starts from the product state that has
        them, and the mixer turns about it (Egger, Marecek and Woerner, 2021; not for ``xy_ring``).
        ``angles.warm_spins`` makes them from a plan, ``angles.relaxed_spins`` from a relaxation.
    max_bytes: memory that a simulation may take.
    engine: ``numba``, ``numpy`` (the same results to rounding), or ``auto``: numba where it can be
        imported. ``torch_qaoa.TorchQAOA`` is the engine for tensors and GPUs.

    Angles are in radians: ``gammas`` and ``betas`` (p,), a batch (B, p), or multi-angle: gammas
    (p, n), J_ij scaled by (gamma_i + gamma_j) / 2 (Herrman et al., 2022), and betas (p, terms), one
    for each term of the mixer: a qubit, a one-hot group, or Grover's single term. Angles of one
    shape whose last dimension is n are multi-angle for mixer ``x`` and a batch for others unless
    ``multi_angle`` says which; a batch of multi-angles has three dimensions. All arithmetic is in
    float64.

    Raises
    ------
    InputError: unknown mixer or engine, angles or warm start of wrong shape or not finite, or more
        memory than allowed (with the byte count).
    """

    def __init__(
        self,
        problem: IsingProblem,
        mixer: str = "x",
        *,
        warm_start: ArrayLike | None = None,
        max_bytes: int = MAX_BYTES,
        engine: str = "auto",
    ) -> None:
        if mixer not in MIXERS:
            raise InputError(f"'{mixer}' is none of {', '.join(MIXERS)}", field="mixer")
        if engine not in ENGINES:
            raise InputError(f"'{engine}' is none of {', '.join(ENGINES)}", field="engine")
        self.problem, self.mixer = problem, mixer
        self.space = Space.of(problem, full=mixer == "x")
        needed = bytes_needed(self.space.size)
        if needed > max_bytes:
            raise InputError(
                f"{problem.n} spins need {count(needed)} bytes, at most {max_bytes} are allowed",
                field="problem",
            )
        self.mixing = Mixing(self.space, mixer, _leans(self.space, mixer, warm_start))
        self.engine = _pick(engine)
        self._engine = self._fast_engine() if self.engine == "numba" else None
        self._reference = ReferenceEngine(self.mixing)

    @functools.cached_property
    def diagonal(self) -> Floats:
        """(size,) energies without the offset, which would only cost digits."""
        if self._engine is None:
            return self.space.energies(self.problem.h, self.problem.edges, self.problem.weights)
        half = self._engine.diagonal
        return half if len(half) == self.space.size else np.concatenate([half, half[::-1]])

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
        return (
            np.array(values, dtype=np.float64),
            np.array(by_gamma, dtype=np.float64).reshape(np.shape(gammas)),
            np.array(by_beta, dtype=np.float64).reshape(np.shape(betas)),
        )

    def state(
        self, gammas: ArrayLike, betas: ArrayLike, *, multi_angle: bool | None = None
    ) -> NDArray[np.complex128]:
        """The final amplitudes (size,), for one set of angles."""
        batch, single = self._angles(gammas, betas, multi_angle)
        if not single:
            raise InputError("wants one set of angles, not a batch", field="gammas")
        return self._state(*batch[0])

    def probabilities(
        self, gammas: ArrayLike, betas: ArrayLike, *, multi_angle: bool | None = None
    ) -> Floats:
        """(size,) probability of every configuration; ``space.spins`` says which is which."""
        psi = self.state(gammas, betas, multi_angle=multi_angle)
        return np.asarray(psi.real**2 + psi.imag**2)

    def sample(
        self,
        gammas: ArrayLike,
        betas: ArrayLike,
        *,
        shots: int,
        seed: int,
        multi_angle: bool | None = None,
    ) -> NDArray[np.int8]:
        """Measured spins (shots, n)."""
        if isinstance(shots, bool) or not isinstance(shots, (int, np.integer)) or shots < 0:
            raise InputError(f"wants a whole number of at least 0, got {shots!r}", field="shots")
        cumulative = np.cumsum(self.probabilities(gammas, betas, multi_angle=multi_angle))
        draws = np.random.default_rng(seed).random(shots) * cumulative[-1]
        index = np.searchsorted(cumulative, draws, side="right")
        return self.space.spins(np.minimum(index, self.space.size - 1))

    def cvar(self, gammas: ArrayLike, betas: ArrayLike, *, alpha: float) -> float:
        """Mean energy of the best ``alpha`` share of measurements (Barkoutsos et al., 2020)."""
        probability = self.probabilities(gammas, betas)
        tail, level = self._tail(probability, alpha)
        return float(probability @ tail) + level + self.problem.offset

    def cvar_and_grad(
        self, gammas: ArrayLike, betas: ArrayLike, *, alpha: float, multi_angle: bool | None = None
    ) -> tuple[float, Floats, Floats]:
        """``cvar`` and its derivatives, for one set of angles. With t the energy that bounds the
        best share, CVaR = t + <min(C - t, 0)> / alpha, and t's own change does not count
        (Rockafellar and Uryasev, 2000).
        """
        batch, single = self._angles(gammas, betas, multi_angle)
        if not single:
            raise InputError("wants one set of angles, not a batch", field="gammas")
        psi = self._state(*batch[0])
        tail, level = self._tail(psi.real**2 + psi.imag**2, alpha)
        value, by_gamma, by_beta = self._value_and_grad(*batch[0], tail)
        return value + level, by_gamma, by_beta

    def _tail(self, probability: Floats, alpha: float) -> tuple[Floats, float]:
        """min(C - t, 0) / alpha (size,), and t."""
        if not 0 < alpha <= 1:
            raise InputError(f"wants a share in (0, 1], got {alpha}", field="alpha")
        order = np.argsort(self.diagonal, kind="stable")
        reached = np.cumsum(probability[order])
        place = np.searchsorted(reached, alpha * reached[-1])
        level = float(self.diagonal[order[min(int(place), len(order) - 1)]])
        return np.minimum(self.diagonal - level, 0.0) / alpha, level

    def _fast_engine(self) -> QubitEngine | LevelEngine | None:
        """The compiled engine for one angle a layer; None when there is nothing to mix."""
        from qcluster.quantum.engine.levels import LevelEngine
        from qcluster.quantum.engine.qubits import QubitEngine

        problem, space = self.problem, self.space
        if space.size < 2:
            return None
        plain = self.mixer != "grover" and self.mixing.leans is None
        on_qubits = set(space.shape) == {2} and plain
        mirrored = on_qubits and space.size > 4 and not problem.h.any() and not problem.groups
        if mirrored:
            space = space.without_mirror()
        diagonal = space.energies(problem.h, problem.edges, problem.weights)
        if on_qubits:
            return QubitEngine(diagonal, mirrored=mirrored)
        return LevelEngine(diagonal, self.mixing)

    @functools.cached_property
    def _levels(self) -> LevelEngine | None:
        """The compiled engine for an angle a term."""
        if self._engine is None:
            return None
        from qcluster.quantum.engine.levels import LevelEngine

        if isinstance(self._engine, LevelEngine):
            return self._engine
        return LevelEngine(self.diagonal, self.mixing)

    def _fast(self, gammas: Floats) -> QubitEngine | LevelEngine | None:
        """The compiled engine if it takes these angles, one a layer."""
        engine = self._engine
        usable = engine is not None and gammas.ndim == 1 and len(gammas) and engine.takes(gammas)
        return engine if usable else None

    def _general(self, phases: Sequence[Floats], gammas: Floats) -> LevelEngine | ReferenceEngine:
        """The engine for these phases and an angle a term."""
        if not len(gammas) or (engine := self._levels) is None:
            return self._reference
        largest = (
            engine.largest
            if phases[0] is self.diagonal
            else max(float(np.abs(phase).max()) for phase in phases)
        )
        return engine if engine.takes(gammas, largest) else self._reference

    def _mean(self, gammas: Floats, betas: Floats) -> float:
        if (engine := self._fast(gammas)) is not None:
            return engine.expectation(gammas, betas) + self.problem.offset
        psi = self._state(gammas, betas)
        return float((psi.real**2 + psi.imag**2) @ self.diagonal) + self.problem.offset

    def _layers(self, gammas: Floats, betas: Floats) -> tuple[list[Floats], Floats, Floats]:
        """A diagonal for each layer, the angle that it is multiplied with, betas (p, terms)."""
        if gammas.ndim == 1:
            each = np.repeat(betas[:, None], self.mixing.terms, axis=1)
            return [self.diagonal] * len(gammas), gammas, each
        problem = self.problem
        left, right = problem.edges.T
        phases = [
            self.space.energies(
                gamma * problem.h, problem.edges, (gamma[left] + gamma[right]) / 2 * problem.weights
            )
            for gamma in gammas
        ]
        return phases, np.ones(len(gammas)), betas

    def _state(self, gammas: Floats, betas: Floats) -> NDArray[np.complex128]:
        layers = self._layers(gammas, betas)
        if (engine := self._fast(gammas)) is not None:
            return engine.state(*layers)
        return self._general(*layers[:2]).state(*layers)

    def _value_and_grad(
        self, gammas: Floats, betas: Floats, observable: Floats | None = None
    ) -> tuple[float, Floats, Floats]:
        """Of ``observable`` (size,), or of the energy; the offset is added to both."""
        offset = self.problem.offset
        if (engine := self._fast(gammas)) is not None:
            # The engine without the mirror has half of the configurations.
            part = None if observable is None else observable[: len(engine.diagonal)]
            value, by_gamma, by_beta = engine.value_and_grad(gammas, betas, part)
            return value + offset, by_gamma, by_beta
        phases, angles, each = self._layers(gammas, betas)
        value, weights, terms = self._general(phases, angles).value_and_weights(
            phases, angles, each, self.diagonal if observable is None else observable
        )
        if gammas.ndim == 1:
            slopes = np.array([weight @ self.diagonal for weight in weights])
            return value + offset, slopes, terms.sum(axis=1)
        by_each = np.array([self._by_each_gamma(weight) for weight in weights])
        return value + offset, by_each.reshape(gammas.shape), terms

    def _by_each_gamma(self, weight: Floats) -> Floats:
        """w . D_i with D_i = h_i z_i + z_i sum_j J_ij z_j / 2."""
        problem = self.problem
        singles, both = self.space.moments(weight)
        left, right = problem.edges.T
        pairs = problem.weights * both[left, right] / 2
        result: Floats = problem.h * singles
        for end in (left, right):
            result += np.bincount(end, weights=pairs, minlength=problem.n)
        return result

    def _angles(
        self, gammas: ArrayLike, betas: ArrayLike, multi_angle: bool | None
    ) -> tuple[list[tuple[Floats, Floats]], bool]:
        """Pairs of angles, one an element of the batch, and whether there was no batch."""
        g, b = _angle_array(gammas, "gammas"), _angle_array(betas, "betas")
        if g.ndim not in (1, 2, 3):
            raise InputError(f"wants (p,), (B, p) or (p, n), got shape {g.shape}", field="gammas")
        n, terms = self.problem.n, self.mixing.terms
        if multi_angle is None:
            shaped = n > 0 and g.shape[-1] == n and b.shape == (*g.shape[:-1], terms)
            multi_angle = g.ndim == 3 or (
                g.ndim == 2 and shaped and (self.mixer == "x" or g.shape != b.shape)
            )
        multi = bool(multi_angle)
        if multi and (g.ndim == 1 or g.shape[-1] != n):
            raise InputError(f"multi-angle wants {n} a layer, got {g.shape}", field="gammas")
        if g.ndim == 3 and not multi:
            raise InputError(f"wants (p,) or (B, p), got shape {g.shape}", field="gammas")
        wanted = (*g.shape[:-1], terms) if multi else g.shape
        if b.shape != wanted:
            raise InputError(f"has shape {b.shape}, wants {wanted}", field="betas")
        single = g.ndim == 1 + multi
        return [(g, b)] if single else list(zip(g, b, strict=True)), single


def _pick(engine: str) -> str:
    """``auto`` made a choice."""
    if engine != "auto":
        return engine
    try:
        import numba  # noqa: F401
    except ImportError:
        return "numpy"
    return "numba"


def _leans(space: Space, mixer: str, warm_start: ArrayLike | None) -> tuple[Floats, ...] | None:
    if warm_start is None:
        return None
    if mixer == "xy_ring":
        raise InputError("a ring has no mixer that leaves it alone", field="warm_start")
    spins = _angle_array(warm_start, "warm_start")
    if spins.shape != (space.n,) or (np.abs(spins) > 1).any():
        raise InputError(f"wants {space.n} numbers in [-1, 1]", field="warm_start")
    return leans_of(space, spins)


def _angle_array(values: ArrayLike, name: str) -> Floats:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError("wants numbers", field=name) from None
    if not np.isfinite(array).all():
        raise InputError("holds a number that is not finite", field=name)
    return array
