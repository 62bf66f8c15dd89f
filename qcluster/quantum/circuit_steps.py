"""Steps of a compiled circuit: plain arithmetic that NumPy arrays and torch tensors both do.

A state is (B, 2^n); ``cos`` and ``sin`` (B, slots) are of the half angles. ``module`` is numpy or
torch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Permute", "Step", "compile_gates", "pull_back"]

Ints = NDArray[np.int64]


class Step(Protocol):
    """One step of a circuit."""

    def apply(self, state: Any, cos: Any, sin: Any, module: Any) -> Any:
        """The state behind it."""
        ...

    def undo(self, state: Any, cos: Any, sin: Any, module: Any) -> Any:
        """The state before it."""
        ...

    def slopes(self, back: Any, psi: Any, cos: Any, sin: Any, module: Any) -> list[tuple[int, Any]]:
        """(slot, 2 Re <back| d step / d angle |psi>) for its angles, each (B,); ``back`` is behind
        the step, ``psi`` before it.
        """
        ...


Entries = tuple[Any, Any, Any, Any]


@dataclass(frozen=True, eq=False)
class _OneQubit:
    """A gate on one qubit: ``h``, ``rx``, ``ry``, ``rz`` or ``rot``."""

    name: str
    qubit: int
    slots: tuple[int, ...]

    def apply(self, state: Any, cos: Any, sin: Any, module: Any) -> Any:
        return self._act(state, self._entries(cos, sin), module)

    def undo(self, state: Any, cos: Any, sin: Any, module: Any) -> Any:
        a, b, c, d = self._entries(cos, sin)
        adjoint = (a.conj(), c.conj(), b.conj(), d.conj())
        return self._act(state, adjoint, module)

    def slopes(self, back: Any, psi: Any, cos: Any, sin: Any, module: Any) -> list[tuple[int, Any]]:  # noqa: ARG002
        if not self.slots:
            return []
        left, right = self._halves(back), self._halves(psi)
        overlaps = [(x.conj() * y).sum((1, 2)) for x in left for y in right]
        found = []
        for slot, entries in zip(self.slots, self._derivatives(cos, sin), strict=True):
            total = sum(o * e for o, e in zip(overlaps, entries, strict=True))
            found.append((slot, 2 * total.real))
        return found

    def _halves(self, state: Any) -> tuple[Any, Any]:
        pair = state.reshape(state.shape[0], -1, 2, 2**self.qubit)
        return pair[:, :, 0], pair[:, :, 1]

    def _act(self, state: Any, entries: Entries, module: Any) -> Any:
        zero, one = self._halves(state)
        a, b, c, d = (e[:, None, None] for e in entries)
        if self.name == "rz":
            rows = [a * zero, d * one]
        else:
            rows = [a * zero + b * one, c * zero + d * one]
        return module.stack(rows, 2).reshape(state.shape[0], -1)

    def _entries(self, cos: Any, sin: Any) -> Entries:
        """The matrix, row by row, each entry (B,)."""
        if self.name == "h":
            root = 0.0 * cos[:, :1].sum(1) + 2**-0.5
            return root, root, root, -root
        c, s = cos[:, self.slots[0]], sin[:, self.slots[0]]
        if self.name == "rot":
            c1, s1, c2, s2 = (a[:, k] for k in self.slots[1:] for a in (cos, sin))
            turn, back = (c2 - 1j * s2) * (c - 1j * s), (c2 - 1j * s2) * (c + 1j * s)
            return c1 * turn, -s1 * back, s1 * back.conj(), c1 * turn.conj()
        return self._rotation(c, s)

    def _rotation(self, c: Any, s: Any) -> Entries:
        if self.name == "rx":
            return c, -1j * s, -1j * s, c
        if self.name == "ry":
            return c, -s, s, c
        return c - 1j * s, 0 * s, 0 * s, c + 1j * s

    def _derivatives(self, cos: Any, sin: Any) -> list[Entries]:
        """Of the matrix, for every slot."""
        if self.name != "rot":
            # d cos(x/2) = -sin(x/2) / 2, d sin(x/2) = cos(x/2) / 2.
            return [self._rotation(-sin[:, self.slots[0]] / 2, cos[:, self.slots[0]] / 2)]
        a, b, c, d = self._entries(cos, sin)
        half = 0.5j
        first = (-half * a, half * b, -half * c, half * d)
        last = (-half * a, -half * b, half * c, half * d)
        turned = list(self.slots)
        c1, s1 = cos[:, turned[1]], sin[:, turned[1]]
        p = (
            (cos[:, turned[2]] - 1j * sin[:, turned[2]]),
            (cos[:, turned[0]] - 1j * sin[:, turned[0]]),
        )
        turn, back = p[0] * p[1], p[0] * p[1].conj()
        middle = (-s1 * turn / 2, -c1 * back / 2, c1 * back.conj() / 2, -s1 * turn.conj() / 2)
        return [first, middle, last]


@dataclass(frozen=True, eq=False)
class _Phase:
    """``rzz`` (exp(-i angle/2 z)), or with ``slot`` None the signs of ``cz``; z is (2^n,)."""

    z: NDArray[np.float64]
    slot: int | None

    def apply(self, state: Any, cos: Any, sin: Any, module: Any) -> Any:
        z = self._signs(cos, module)
        if self.slot is None:
            return state * z
        return state * (cos[:, self.slot, None] - 1j * (sin[:, self.slot, None] * z))

    def undo(self, state: Any, cos: Any, sin: Any, module: Any) -> Any:
        return self.apply(state, cos, -sin, module)

    def slopes(self, back: Any, psi: Any, cos: Any, sin: Any, module: Any) -> list[tuple[int, Any]]:
        if self.slot is None:
            return []
        behind = self.apply(psi, cos, sin, module)
        return [(self.slot, (back.conj() * (self._signs(cos, module) * behind)).sum(1).imag)]

    def _signs(self, like: Any, module: Any) -> Any:
        return module.asarray(self.z, dtype=like.dtype, device=like.device)


@dataclass(frozen=True, eq=False)
class Permute:
    """``x`` and ``cx`` gates in a row: amplitude k comes from place ``source[k]``."""

    source: Ints

    @functools.cached_property
    def target(self) -> Ints:
        """The inverse permutation."""
        return np.argsort(self.source)

    def apply(self, state: Any, cos: Any, sin: Any, module: Any) -> Any:  # noqa: ARG002
        return state[:, self._index(self.source, module, cos)]

    def undo(self, state: Any, cos: Any, sin: Any, module: Any) -> Any:  # noqa: ARG002
        return state[:, self._index(self.target, module, cos)]

    def slopes(self, back: Any, psi: Any, cos: Any, sin: Any, module: Any) -> list[tuple[int, Any]]:  # noqa: ARG002
        return []

    @staticmethod
    def _index(order: Ints, module: Any, like: Any) -> Any:
        return module.asarray(order, device=like.device)


def compile_gates(
    qubits: int, gates: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]]
) -> tuple[Step, ...]:
    """Steps for ``gates``; permutations in a row are one."""
    steps: list[Step] = []
    index = np.arange(2**qubits)
    waiting: Ints | None = None
    for name, on, slots in gates:
        if name in ("x", "cx"):
            active = (index >> on[0]) & 1 if name == "cx" else 1
            source = index ^ (active << on[-1])
            waiting = source if waiting is None else waiting[source]
            continue
        if waiting is not None:
            steps.append(Permute(waiting))
            waiting = None
        if name == "cz":
            steps.append(_Phase(_signs((index >> on[0]) & (index >> on[1])), None))
        elif name == "rzz":
            steps.append(_Phase(_signs((index >> on[0]) ^ (index >> on[1])), slots[0]))
        else:
            steps.append(_OneQubit(name, on[0], slots))
    if waiting is not None:
        steps.append(Permute(waiting))
    return tuple(steps)


def _signs(bits: Ints) -> NDArray[np.float64]:
    """-1 where the lowest bit is set, else 1."""
    return np.where(bits & 1, -1.0, 1.0)


def pull_back(
    steps: Sequence[Step], psi: Any, backs: Sequence[Any], cos: Any, sin: Any, module: Any
) -> Any:
    """2 Re <back| d psi / d angle> for every back state and slot, (K, B, slots), by the adjoint
    method (Jones and Gacon, 2020): both states are taken back step by step. ``psi`` and ``backs``
    are behind the last one.
    """
    columns: list[list[Any]] = [[0.0 * cos[:, k] for k in range(cos.shape[1])] for _ in backs]
    backs = list(backs)
    for step in reversed(steps):
        psi = step.undo(psi, cos, sin, module)
        for column, back in zip(columns, backs, strict=True):
            for slot, slope in step.slopes(back, psi, cos, sin, module):
                column[slot] = column[slot] + slope
        backs = [step.undo(back, cos, sin, module) for back in backs]
    rows = [module.stack(column, 1) if column else 0.0 * cos for column in columns]
    return module.stack(rows, 0)
