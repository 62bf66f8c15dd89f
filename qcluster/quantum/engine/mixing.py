"""Mixers as data: which term acts on which axis of the space, and the state that they leave alone.

- ``x``: sum of X over all qubits;
- ``xy_complete``: (XX + YY) / 2 over all pairs of each one-hot group; on its k one-hot levels that
  is 11^T - I = k |u><u| - I with u the uniform superposition;
- ``xy_ring``: the same over neighbours on a ring, a circulant matrix;
- ``grover``: |F><F| with F the uniform superposition of all feasible states.

A qubit outside all groups gets X under the XY mixers, which is what 11^T - I is for two levels.
Sources: Hadfield et al. (2019) for XY, Baertschi and Eidenbenz (2020) for Grover.

Warm starts (Egger, Marecek and Woerner, 2021) put a unit vector w on each axis in u's place: the
state starts as the product of all w and the term becomes k |w><w| - I, which for a qubit is the
rotation about the axis of RY(2 asin sqrt c)|0>, their mixer with its sign turned.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError
from qcluster.quantum.space import Space

__all__ = ["MIXERS", "Mixing", "leans_of", "ring_adjacency"]

MIXERS = ("x", "xy_ring", "xy_complete", "grover")

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Mixing:
    """``mixer`` on ``space``; ``leans`` are the unit vectors w of a warm start, one an axis."""

    space: Space
    mixer: str
    leans: tuple[Floats, ...] | None = None

    @property
    def terms(self) -> int:
        """Terms of B = sum_q B_q that can have an angle each: one an axis, or Grover's one."""
        return 1 if self.mixer == "grover" else len(self.space.axes)

    @functools.cached_property
    def start(self) -> Floats | None:
        """Amplitudes (size,) that the circuit starts from; None for the uniform superposition."""
        if self.leans is None:
            return None
        amplitudes = np.ones(1)
        for lean in self.leans:
            amplitudes = np.multiply.outer(lean, amplitudes).ravel()
        return amplitudes


def leans_of(space: Space, spins: Floats) -> tuple[Floats, ...]:
    """Unit vectors, one an axis, of the product state with <Z_i> = ``spins`` (n,), each in [-1, 1].

    In a one-hot group (1 + spins) / 2 are the shares of its levels, scaled to sum to one. Raises
    InputError for a group without any share.
    """
    leans = []
    for axis in space.axes:
        up = (1 + spins[list(axis.variables)]) / 2
        shares = up if axis.one_hot else np.array([up[0], 1 - up[0]])
        total = float(shares.sum())
        if total <= 0:
            raise InputError(f"leaves no level to the group {axis.variables}", field="warm_start")
        leans.append(np.sqrt(shares / total))
    return tuple(leans)


def ring_adjacency(k: int) -> Floats:
    """Adjacency (k, k) of a ring: two levels have one edge, one level has none."""
    ring = np.zeros((k, k))
    for level in range(k if k > 2 else k - 1):
        other = (level + 1) % k
        ring[level, other] = ring[other, level] = 1.0
    return ring
