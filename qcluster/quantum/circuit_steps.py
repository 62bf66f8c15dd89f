"""Steps of a compiled circuit: plain arithmetic that NumPy arrays and torch tensors both do.

A state is (B, 2^n); ``cos`` and ``sin`` (B, slots) are of the half angles. ``module`` is numpy or
torch. ``undo`` is ``apply`` of the inverse and wants -sin in place of sin.
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
    """One step; ``slot`` is the angle that it is differentiated by, if it is a single rotation."""

    @property
    def slot(self) -> int | None: ...

    def apply(self, state: Any, cos: Any, sin: Any, module: Any) -> Any:
        """The state behind it."""
        ...

    def undo(self, state: Any, cos: Any, sin: Any, module: Any) -> Any:
        """The state before it."""
        ...

    def generator(self, state: Any, module: Any) -> Any:
        """P state, where the step is exp(-i angle/2 P)."""
        ...


@dataclass(frozen=True, eq=False)
class _OneQubit:
    """A gate on one qubit: ``h``, ``rx``, ``ry``, ``rz`` or ``rot``."""

    name: str
    qubit: int
    slots: tuple[int, ...]

    @property
    def slot(self) -> int | None:
        return self.slots[0] if self.slots else None

    def apply(self, state: Any, cos: Any, sin: Any, module: Any) -> Any:
        count = state.shape[0]
        pair = state.reshape(count, -1, 2, 2**self.qubit)
        zero, one = pair[:, :, 0], pair[:, :, 1]
        first, second = self._rows(zero, one, cos, sin)
        return module.stack([first, second], 2).reshape(count, -1)

    def undo(self, state: Any, cos: Any, sin: Any, module: Any) -> Any:
        return self.apply(state, cos, sin, module)

    def generator(self, state: Any, module: Any) -> Any:
        pair = state.reshape(state.shape[0], -1, 2, 2**self.qubit)
        zero, one = pair[:, :, 0], pair[:, :, 1]
        rows = {"rx": (one, zero), "ry": (-1j * one, 1j * zero), "rz": (zero, -one)}
        return module.stack(rows[self.name], 2).reshape(state.shape)

    def _rows(self, zero: Any, one: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
        if self.name == "h":
            return (zero + one) * 2**-0.5, (zero - one) * 2**-0.5
        c, s = (a[:, self.slots[0], None, None] for a in (cos, sin))
        if self.name == "rx":
            return c * zero - 1j * s * one, c * one - 1j * s * zero
        if self.name == "ry":
            return c * zero - s * one, s * zero + c * one
        if self.name == "rz":
            return (c - 1j * s) * zero, (c + 1j * s) * one
        c1, c2, s1, s2 = (a[:, k, None, None] for a in (cos, sin) for k in self.slots[1:])
        outer, inner = (c2 - 1j * s2) * (c - 1j * s), (c2 - 1j * s2) * (c + 1j * s)
        diagonal, off = c1 * outer, s1 * inner
        return diagonal * zero - off * one, off.conj() * zero + diagonal.conj() * one


@dataclass(frozen=True, eq=False)
class _Phase:
    """``rzz`` (exp(-i angle/2 z)), or with ``slot`` None the signs of ``cz``; z is (2^n,)."""

    z: NDArray[np.float64]
    slot: int | None

    def apply(self, state: Any, cos: Any, sin: Any, module: Any) -> Any:
        z = module.asarray(self.z, dtype=cos.dtype, device=cos.device)
        if self.slot is None:
            return state * z
        return state * (cos[:, self.slot, None] - 1j * (sin[:, self.slot, None] * z))

    def undo(self, state: Any, cos: Any, sin: Any, module: Any) -> Any:
        return self.apply(state, cos, sin, module)

    def generator(self, state: Any, module: Any) -> Any:
        return state * module.asarray(self.z, device=state.device)


@dataclass(frozen=True, eq=False)
class Permute:
    """``x`` and ``cx`` gates in a row: amplitude k comes from place ``source[k]``."""

    source: Ints
    slot: int | None = None

    @functools.cached_property
    def target(self) -> Ints:
        """The inverse permutation."""
        return np.argsort(self.source)

    def apply(self, state: Any, cos: Any, sin: Any, module: Any) -> Any:  # noqa: ARG002
        return state[:, self._index(self.source, module, cos)]

    def undo(self, state: Any, cos: Any, sin: Any, module: Any) -> Any:  # noqa: ARG002
        return state[:, self._index(self.target, module, cos)]

    def generator(self, state: Any, module: Any) -> Any:
        raise NotImplementedError("it has no angle")

    @staticmethod
    def _index(order: Ints, module: Any, like: Any) -> Any:
        return module.asarray(order, device=like.device)


def compile_gates(
    qubits: int,
    gates: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]],
    *,
    fuse: bool = True,
) -> tuple[Step, ...]:
    """Steps for ``gates``; ``fuse=False`` takes ``rot`` apart, so that each has one angle."""
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
        elif name == "rot" and not fuse:
            parts = zip(("rz", "ry", "rz"), slots, strict=True)
            steps += [_OneQubit(part, on[0], (slot,)) for part, slot in parts]
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
    method (Jones and Gacon, 2020): with both states taken back step by step it is Im <back|P|psi>
    at each rotation. ``steps`` have one angle each (``fuse=False``); ``psi`` and ``backs`` are
    behind the last one.
    """
    columns: list[list[Any]] = [[0.0 * cos[:, k] for k in range(cos.shape[1])] for _ in backs]
    backs = list(backs)
    for step in reversed(steps):
        if step.slot is not None:
            turned = step.generator(psi, module)
            for column, back in zip(columns, backs, strict=True):
                column[step.slot] = column[step.slot] + (back.conj() * turned).sum(-1).imag
        backs = [step.undo(back, cos, -sin, module) for back in backs]
        psi = step.undo(psi, cos, -sin, module)
    rows = [module.stack(column, 1) if column else 0.0 * cos for column in columns]
    return module.stack(rows, 0)
