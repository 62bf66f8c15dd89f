"""Where QAOA's angles come from: ramps, tables, other problems, and what a circuit starts from.

All angles are in radians, minimise, and so have gamma > 0 and beta < 0. "Unit" is the gamma of a
problem at one layer up to a factor that all problems share: what angles are scaled with when they
move from one problem to another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError
from qcluster.quantum.angle_tables import CUBIC, SPIN_GLASS
from qcluster.quantum.annealing import energy_scale
from qcluster.quantum.problem import IsingProblem

__all__ = [
    "fixed_angles", "gamma_unit", "interpolate_angles", "large_girth_cut", "ramp_angles",
    "relaxed_spins", "transfer_angles", "warm_spins",
]  # fmt: skip

Floats = NDArray[np.float64]

MAX_LAYERS = max(CUBIC)


def ramp_angles(problem: IsingProblem, layers: int, step: float = 0.7) -> tuple[Floats, Floats]:
    """A linear annealing ramp (Sack and Serbyn, 2021), gamma scaled by the problem's energies.

    gamma rises from 0 and |beta| falls to 0; beta is negative, since the start |+> is the highest
    state of sum X and so the lowest of -sum X.
    """
    position = (np.arange(layers) + 0.5) / max(layers, 1)
    return position * step / energy_scale(problem), -(1 - position) * step


def interpolate_angles(angles: Floats) -> Floats:
    """INTERP (Zhou et al., 2020): angles (p,) of a good circuit to a start for p + 1 layers."""
    p = len(angles)
    padded = np.concatenate([[0.0], angles, [0.0]])
    position = np.arange(p + 1)
    return np.asarray((position * padded[:-1] + (p - position) * padded[1:]) / p)


def fixed_angles(problem: IsingProblem, layers: int) -> tuple[Floats, Floats]:
    """Angles (layers,) from the literature, without looking at the problem's energies.

    3-regular graphs of one weight have a table of their own (Wurtz and Lykov, 2021); all others
    take the spin glass's (Farhi et al., 2022) in their own unit. Both reach 11 layers; deeper
    circuits are interpolated. Raises InputError for layers below 1.
    """
    if isinstance(layers, bool) or layers < 1:
        raise InputError(f"wants at least 1, got {layers}", field="layers")
    cubic = _is_cubic(problem)
    table = CUBIC if cubic else SPIN_GLASS
    gammas, betas = (np.array(angles) for angles in table[min(layers, MAX_LAYERS)])
    while len(gammas) < layers:
        gammas, betas = interpolate_angles(gammas), interpolate_angles(betas)
    unit = 1 / float(np.abs(problem.weights[0])) if cubic else gamma_unit(problem)
    return gammas * unit, -betas


def gamma_unit(problem: IsingProblem) -> float:
    """arctan(1 / sqrt(d - 1)) over the couplings' root mean square, d the mean degree: exact for
    one layer on triangle-free regular graphs (Wang et al., 2018) and their weighted versions on
    average (Shaydulin et al., 2023). Fields count as couplings to one more spin. 1 for no cost.
    """
    values = np.concatenate([problem.weights, problem.h[problem.h != 0]])
    size = float(np.sqrt(np.mean(np.square(values)))) if len(values) else 0.0
    if not size:
        return 1.0
    ends = 2 * np.count_nonzero(problem.weights) + np.count_nonzero(problem.h)
    degree = max(ends / problem.n, 1.0)
    return float(np.arctan2(1.0, np.sqrt(degree - 1.0))) / size


def transfer_angles(
    gammas: ArrayLike, betas: ArrayLike, source: IsingProblem, target: IsingProblem
) -> tuple[Floats, Floats]:
    """Angles (p,) that were good on ``source``, for ``target``: gamma by the ratio of the units,
    beta as it is (Brandao et al., 2018, for equal families; Shaydulin et al., 2023, for weights).
    """
    ratio = gamma_unit(target) / gamma_unit(source)
    return np.asarray(gammas, dtype=np.float64) * ratio, np.array(betas, dtype=np.float64)


def warm_spins(problem: IsingProblem, z: ArrayLike, *, eps: float = 0.25) -> Floats:
    """(n,) expected spins for ``QAOASimulator(warm_start=...)`` from a plan's spins: each is kept
    with probability 1 - eps (Egger, Marecek and Woerner, 2021, who take c in [eps, 1 - eps]); in a
    one-hot group the hot level keeps 1 - eps and the others share the rest.

    ``z`` may hold any numbers in [-1, 1]; eps in [0, 0.5]. Raises InputError otherwise.
    """
    spins = np.asarray(z, dtype=np.float64)
    if spins.shape != (problem.n,) or not (np.abs(spins) <= 1).all():
        raise InputError(f"wants {problem.n} numbers in [-1, 1]", field="z")
    if not 0 <= eps <= 0.5:
        raise InputError(f"wants a number in [0, 0.5], got {eps}", field="eps")
    result: Floats = np.clip(spins, 2 * eps - 1, 1 - 2 * eps)
    for group in problem.groups:
        members = list(group)
        shares = (1 + spins[members]) / 2
        shares = shares / shares.sum() if shares.sum() else np.full(len(members), 1.0)
        spread = eps / max(len(members) - 1, 1)
        kept = 1 - eps - spread if len(members) > 1 else 1.0
        mixed = kept * shares + spread * (len(members) > 1)
        result[members] = 2 * mixed / mixed.sum() - 1
    return result


def relaxed_spins(
    problem: IsingProblem, *, temperature: float = 0.5, sweeps: int = 60, seed: int = 0
) -> Floats:
    """(n,) spins in [-1, 1] of a relaxed solution: mean-field annealing (Peterson and Anderson,
    1987), the product state of least free energy, cooled from twice the problem's energy scale to
    ``temperature`` times it. Groups are one-hot on average: their shares sum to one.
    """
    generator = np.random.default_rng(seed)
    unit = energy_scale(problem)
    m = generator.uniform(-0.01, 0.01, problem.n)
    for group in problem.groups:
        m[list(group)] += 2 / len(group) - 1
    couplings = problem.matrix if problem.n else None
    grouped = {i for group in problem.groups for i in group}
    free = np.array([i for i in range(problem.n) if i not in grouped], dtype=np.int64)
    for heat in np.linspace(2.0, temperature, sweeps):
        if couplings is None:
            break
        for half in _halves(free, generator):
            field = problem.h[half] + couplings[half] @ m
            m[half] = np.tanh(-field / (heat * unit))
        for group in problem.groups:
            members = list(group)
            cost = 2 * (problem.h[members] + couplings[members] @ m) / (heat * unit)
            shares = np.exp(cost.min() - cost)
            m[members] = 2 * shares / shares.sum() - 1
    return m


def large_girth_cut(degree: int, gammas: ArrayLike, betas: ArrayLike) -> float:
    """Share of the edges that QAOA cuts on ``degree``-regular graphs without short cycles, exact
    (Basso, Farhi, Marwaha, Villalonga and Zhou, 2022), for the cost sum z_i z_j over edges.

    Sums over paths of 2 p + 1 spins by Walsh-Hadamard transforms: O(p^2 4^p) time, p <= 9.
    Rounding grows by degree - 1 with every layer. Raises InputError for degrees below 2, deeper
    circuits, and (degree - 1)^p beyond 10^10, where it would cost more than six digits.
    """
    g, b = np.asarray(gammas, dtype=np.float64), -np.asarray(betas, dtype=np.float64)
    p, branches = len(g), degree - 1
    if degree < 2 or not 1 <= p <= 9 or branches**p > 10**10:
        raise InputError(f"got degree {degree} and {p} layers", field="gammas")
    length = 2 * p + 1
    path = 1.0 - 2.0 * ((np.arange(2**length) >> np.arange(length)[:, None]) & 1)
    phase = np.concatenate([g, [0.0], -g[::-1]]) @ path
    weight = np.full(2**length, 0.5, dtype=np.complex128)
    for k, beta in enumerate([*b, *-b[::-1]]):
        same = path[k] == path[k + 1]
        weight *= np.where(same, np.cos(beta), 1j * np.sin(beta))
    cosine, sine = (_walsh(f(phase)) / 2**length for f in (np.cos, np.sin))
    subtree = np.ones(2**length, dtype=np.complex128)
    for _ in range(p):
        subtree = _walsh(_walsh(weight * subtree) * cosine) ** branches
    end = path[p] * weight * subtree
    return float(0.5 + (0.5j * np.sum(end * _walsh(_walsh(end) * sine))).real)


def _walsh(values: NDArray[np.complex128] | Floats) -> NDArray[np.complex128]:
    """sum_x values[x] (-1)^(popcount(x & k)) for all k; the length is a power of two."""
    result, half = values.astype(np.complex128), 1
    while half < len(result):
        block = result.reshape(-1, 2, half)
        result = np.stack([block[:, 0] + block[:, 1], block[:, 0] - block[:, 1]], axis=1).ravel()
        half *= 2
    return result


def _is_cubic(problem: IsingProblem) -> bool:
    """Whether it is MaxCut on a 3-regular graph of one weight."""
    weights = problem.weights
    if problem.h.any() or problem.groups or not len(weights) or weights[0] <= 0:
        return False
    degrees = np.bincount(problem.edges.ravel(), minlength=problem.n)
    return bool((degrees == 3).all() and (weights == weights[0]).all())


def _halves(free: NDArray[np.int64], generator: np.random.Generator) -> Sequence[NDArray[np.int64]]:
    """Two random halves: updating all spins at once would swing for ever."""
    return np.array_split(generator.permutation(free), 2)
