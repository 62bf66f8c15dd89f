"""The seam between a study and what proposes its points, and the two simplest proposers.

A strategy is given a ``View`` (everything that is known, in the unit cube, values to be minimised)
and returns a point. It may keep hints for speed in ``state``, plain JSON that the study stores with
every proposal: a strategy made anew and given that state proposes the same points. Randomness comes
from ``View.rng`` alone, which depends on the study's seed and the trial's number.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError
from qcluster.q_hpo.space import Space

__all__ = [
    "Proposal", "RandomStrategy", "SobolStrategy", "Strategy", "Task", "View", "one_thread",
    "pool_points", "unseen",
]  # fmt: skip

F = NDArray[np.float64]


@functools.cache
def _pools() -> Any:
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    return ThreadpoolController()


def one_thread() -> AbstractContextManager[Any]:
    """Linear algebra on one thread: matrices are small, and trials want the other cores."""
    import scipy.linalg  # noqa: F401  its BLAS must be there to be limited

    limit: AbstractContextManager[Any] = _pools().limit(limits=1, user_api="blas")
    return limit


@dataclass(frozen=True)
class Task:
    """Observations of another task in the same space: points (n, d), values (n,) minimised."""

    name: str
    points: F
    values: F


@dataclass(frozen=True)
class View:
    """What a strategy knows when it is asked for trial ``number``.

    points: (n, d) snapped points of the trials that are modelled, in the order they were told.
    values: (n,) to be minimised, all of one fidelity: the full one once there are some final
        losses, before that the highest that enough trials reached; NaN where the trial failed.
    early: (k, d) other points that were tried. What is known of lower fidelities is in ``tasks``,
        one task a step, never among ``values``.
    pending: (m, d) points of running trials.
    pool: (p, d) the only points allowed, or None.
    """

    space: Space
    points: F
    values: F
    early: F
    pending: F
    number: int
    seed: int
    pool: F | None = None
    tasks: tuple[Task, ...] = ()

    @cached_property
    def rng(self) -> np.random.Generator:
        """Randomness of this proposal."""
        return np.random.default_rng([self.seed, self.number])

    @cached_property
    def ok(self) -> NDArray[np.bool_]:
        """(n,) which trials have a value."""
        return np.isfinite(self.values)

    @cached_property
    def taken(self) -> set[bytes]:
        """Every point that was tried or is being tried."""
        both = np.vstack([self.points, self.early, self.pending])
        return {row.tobytes() for row in np.round(both, 12) + 0.0}


@dataclass(frozen=True)
class Proposal:
    """A snapped point (d,) and the arm that proposed it."""

    point: F
    arm: str = field(default="")


class Strategy(Protocol):
    """What proposes points."""

    def propose(self, view: View) -> Proposal:
        """The next point to try; one that was tried already only if there is no other."""
        ...

    def state(self) -> dict[str, Any]:
        """What it has learnt for speed, as plain JSON."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up such a state."""
        ...


class RandomStrategy:
    """Independent uniform draws: the baseline of every comparison."""

    def propose(self, view: View) -> Proposal:
        if view.pool is not None:
            return Proposal(from_pool(view, view.rng.permutation(len(view.pool))), "random")
        return Proposal(unseen(view, view.rng.random((64, view.space.d))), "random")

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up."""


class SobolStrategy(RandomStrategy):
    """A scrambled Sobol sequence (Owen, 1998); from a pool, the row nearest to its next point."""

    def propose(self, view: View) -> Proposal:
        from scipy.stats import qmc

        sequence = qmc.Sobol(view.space.d, rng=np.random.default_rng(view.seed))
        if view.number:
            sequence.fast_forward(view.number)
        target = sequence.random(1)
        if view.pool is None:
            rest = view.rng.random((63, view.space.d))
            return Proposal(unseen(view, np.vstack([target, rest])), "sobol")
        far = np.abs(view.space.features(view.pool) - view.space.features(view.space.snap(target)))
        return Proposal(from_pool(view, np.argsort(far.sum(axis=1), kind="stable")), "sobol")


def unseen(view: View, points: F) -> F:
    """The first of ``points`` (m, d), snapped, that was not tried; else the first."""
    snapped = view.space.snap(points)
    grid = view.space.grid
    for candidates in (snapped, grid if grid is not None else snapped[:0]):
        rounded = np.round(candidates, 12) + 0.0
        for i, row in enumerate(rounded):
            if row.tobytes() not in view.taken:
                found: F = candidates[i]
                return found
    first: F = snapped[0]
    return first


def pool_points(space: Space, pool: Iterable[Mapping[str, Any]]) -> F:
    """(p, d) the only points allowed. Raises InputError if there are none, or naming the row."""
    points = space.points(pool)
    if not len(points):
        raise InputError("has no configurations", field="pool")
    return points


def from_pool(view: View, order: NDArray[np.int64]) -> F:
    """The first row of the pool, in this order, that was not tried; else the first."""
    assert view.pool is not None
    rounded = np.round(view.pool, 12) + 0.0
    for i in order:
        if rounded[i].tobytes() not in view.taken:
            row: F = view.pool[i]
            return row
    first: F = view.pool[order[0]]
    return first
