"""Parametrised circuits and a batched state-vector simulator for them, with exact gradients.

A ``ParametrisedCircuit`` is a list of gates whose angles are columns ("slots") of an array, so one
circuit runs on a whole batch of angle sets at once; data and weights are both just slots. Qubit 0
is the least significant bit; rotations are exp(-i angle/2 P), as in Qiskit and PennyLane (whose
wire 0 is the *most* significant bit). Meant for small circuits, up to about 14 qubits;
``QAOASimulator`` is the fast engine for diagonal costs. ``qcluster.quantum.vqc`` runs the same
circuits as torch modules.

    from qcluster.quantum import circuits
    circuit = circuits.strongly_entangling(qubits=4, layers=2)          # 24 slots
    angles = np.random.default_rng(0).uniform(-1, 1, (32, circuit.slots))
    values = circuit.expectations(angles)                                # (32, 4): <Z_q>
    values, jacobian = circuit.jacobian(angles)                          # + (32, 4, 24), adjoint
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError
from qcluster.quantum.backends.circuit import Circuit
from qcluster.quantum.circuit_steps import Step, compile_gates, pull_back

__all__ = [
    "GATES", "ParametrisedCircuit", "angle_encoding", "data_reuploading", "reuploading_angles",
    "strongly_entangling", "z_diagonals",
]  # fmt: skip

GATES = {"h": (1, 0), "x": (1, 0), "rx": (1, 1), "ry": (1, 1), "rz": (1, 1), "rot": (1, 3),
         "rzz": (2, 1), "cx": (2, 0), "cz": (2, 0)}  # fmt: skip
"""Name -> qubits, slots. ``rot``(a, b, c) = RZ(c) RY(b) RZ(a), PennyLane's Rot; ``cx``: control
first."""

MAX_BYTES = 2 * 2**30

Complex = NDArray[np.complex128]
Floats = NDArray[np.float64]
ParametrisedGate = tuple[str, tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class ParametrisedCircuit:
    """Gates (name, qubits, slots) on |0...0>; a slot may serve several gates.

    Angles are (slots,) or a batch (B, slots) in radians. Observables are diagonals (K, 2^qubits),
    by default <Z> of every qubit (``z_diagonals`` makes strings of Z; append ``h`` for X).

    Raises InputError for unknown gates, wrong qubits or slots, angles of wrong shape or not finite,
    and states beyond ``MAX_BYTES`` (with the byte count).
    """

    qubits: int
    gates: tuple[ParametrisedGate, ...]

    def __post_init__(self) -> None:
        if isinstance(self.qubits, bool) or self.qubits < 1:
            raise InputError(f"wants at least 1, got {self.qubits}", field="qubits")
        for name, qubits, slots in self.gates:
            if name not in GATES:
                raise InputError(f"'{name}' is none of {', '.join(GATES)}", field="gates")
            right = len(qubits) == GATES[name][0] == len(set(qubits))
            if not right or not all(0 <= q < self.qubits for q in qubits):
                raise InputError(f"{name} cannot act on qubits {qubits}", field="gates")
            if len(slots) != GATES[name][1] or any(s < 0 for s in slots):
                raise InputError(f"{name} wants {GATES[name][1]} slots, got {slots}", field="gates")

    @functools.cached_property
    def slots(self) -> int:
        """Angles that it takes."""
        return 1 + max((s for _, _, slots in self.gates for s in slots), default=-1)

    @functools.cached_property
    def steps(self) -> tuple[Step, ...]:
        """What the simulators run: neighbouring permutations are one step."""
        return compile_gates(self.qubits, self.gates)

    @functools.cached_property
    def rotations(self) -> tuple[tuple[str, tuple[int, ...], int], ...]:
        """Every single rotation (name, qubits, slot), in order of application."""
        parts = _elementary(self.gates)
        return tuple((name, qubits, slot) for name, qubits, slot in parts if slot is not None)

    def then(self, other: ParametrisedCircuit) -> ParametrisedCircuit:
        """This circuit and then ``other``, whose slots come behind ours."""
        if other.qubits != self.qubits:
            raise InputError(f"{other.qubits} qubits behind {self.qubits}", field="qubits")
        moved = tuple(
            (name, qubits, tuple(s + self.slots for s in slots))
            for name, qubits, slots in other.gates
        )
        return ParametrisedCircuit(self.qubits, self.gates + moved)

    def bind(self, angles: ArrayLike) -> Circuit:
        """The circuit for backends at these angles (slots,)."""
        values = self._angles(angles)
        if values.ndim != 1:
            raise InputError("wants one set of angles, not a batch", field="angles")
        gates: list[tuple[str, tuple[int, ...], float]] = []
        for name, qubits, slot in _elementary(self.gates):
            if name == "cz":
                around = ("h", qubits[1:], 0.0)
                gates += [around, ("cx", qubits, 0.0), around]
            else:
                gates.append((name, qubits, 0.0 if slot is None else float(values[slot])))
        return Circuit(self.qubits, tuple(gates))

    def states(self, angles: ArrayLike, start: ArrayLike | None = None) -> Complex:
        """Amplitudes (2^qubits,) or (B, 2^qubits); ``start`` are amplitudes of the same shape (or
        one state for all) in place of |0...0>, taken as they are.
        """
        values = self._angles(angles)
        batch = np.atleast_2d(values)
        self._guard(len(batch))
        psi = self._start(start, len(batch))
        cos, sin = np.cos(batch / 2), np.sin(batch / 2)
        for step in self.steps:
            psi = step.apply(psi, cos, sin, np)
        return psi[0] if values.ndim == 1 and psi.shape[0] == 1 else psi

    def expectations(
        self, angles: ArrayLike, observables: ArrayLike | None = None, *,
        start: ArrayLike | None = None, shots: int | None = None, seed: int = 0,
    ) -> Floats:  # fmt: skip
        """<O_k> (K,) or (B, K), exact, or the mean over ``shots`` measurements of each state."""
        psi = self.states(angles, start)
        probabilities = psi.real**2 + psi.imag**2
        table = self._observables(observables)
        if shots is None:
            return np.asarray(probabilities @ table.T)
        if isinstance(shots, bool) or shots < 1:
            raise InputError(f"wants a whole number of at least 1, got {shots!r}", field="shots")
        rows = np.atleast_2d(probabilities)
        draws = np.random.default_rng(seed).multinomial(
            shots, rows / rows.sum(axis=1, keepdims=True)
        )
        return np.asarray((draws / shots @ table.T).reshape(*psi.shape[:-1], len(table)))

    def jacobian(
        self, angles: ArrayLike, observables: ArrayLike | None = None, *,
        start: ArrayLike | None = None,
        mode: Literal["adjoint", "parameter-shift"] = "adjoint",
    ) -> tuple[Floats, Floats]:  # fmt: skip
        """<O_k> and d<O_k>/d angle: (K,) and (K, slots), or (B, K) and (B, K, slots).

        ``adjoint`` takes about two simulations for each observable (Jones and Gacon, 2020);
        ``parameter-shift`` two for each rotation (Schuld et al., 2019), as a device would.
        """
        if mode not in ("adjoint", "parameter-shift"):
            raise InputError(f"'{mode}' is none of adjoint, parameter-shift", field="mode")
        values = self._angles(angles)
        batch, table = np.atleast_2d(values), self._observables(observables)
        method = self._adjoint if mode == "adjoint" else self._shift
        result, jacobian = method(batch, table, start)
        return (result[0], jacobian[0]) if values.ndim == 1 else (result, jacobian)

    def pull_back(
        self, angles: ArrayLike, cotangents: ArrayLike, observables: ArrayLike | None = None, *,
        start: ArrayLike | None = None,
    ) -> Floats:  # fmt: skip
        """sum_k cotangents_k d<O_k>/d angle, (slots,) or (B, slots): three simulations in all,
        however many observables; ``cotangents`` (K,) or (B, K).
        """
        values = self._angles(angles)
        batch, table = np.atleast_2d(values), self._observables(observables)
        weights = np.atleast_2d(np.asarray(cotangents, dtype=np.float64))
        if weights.shape not in ((1, len(table)), (len(batch), len(table))):
            raise InputError(f"wants ({len(batch)}, {len(table)})", field="cotangents")
        self._guard(3 * len(batch))
        psi = np.atleast_2d(self.states(batch, start))
        back = psi * (weights @ table)
        slopes = pull_back(self.steps, psi, [back], np.cos(batch / 2), np.sin(batch / 2), np)[0]
        return np.asarray(slopes[0] if values.ndim == 1 else slopes)

    def _adjoint(
        self, batch: Floats, table: Floats, start: ArrayLike | None
    ) -> tuple[Floats, Floats]:
        self._guard(3 * len(batch) * len(table))
        psi = np.atleast_2d(self.states(batch, start))
        result = (psi.real**2 + psi.imag**2) @ table.T
        backs = [psi * observable for observable in table]
        slopes = pull_back(self.steps, psi, backs, np.cos(batch / 2), np.sin(batch / 2), np)
        return result, np.moveaxis(slopes, 0, 1)

    def _shift(
        self, batch: Floats, table: Floats, start: ArrayLike | None
    ) -> tuple[Floats, Floats]:
        spread = self.spread()
        wide = batch[:, [slot for _, _, slot in self.rotations]]
        result = spread.expectations(wide, table, start=start)
        jacobian = np.zeros((len(batch), len(table), self.slots))
        for column, (_, _, slot) in enumerate(self.rotations):
            step = np.zeros(wide.shape[1])
            step[column] = np.pi / 2
            plus = spread.expectations(wide + step, table, start=start)
            jacobian[:, :, slot] += (
                plus - spread.expectations(wide - step, table, start=start)
            ) / 2
        return result, jacobian

    def spread(self) -> ParametrisedCircuit:
        """The same circuit with a slot of its own for every rotation."""
        gates: list[ParametrisedGate] = []
        used = 0
        for name, qubits, slot in _elementary(self.gates):
            gates.append((name, qubits, () if slot is None else (used,)))
            used += slot is not None
        return ParametrisedCircuit(self.qubits, tuple(gates))

    def _angles(self, angles: ArrayLike) -> Floats:
        try:
            values = np.asarray(angles, dtype=np.float64)
        except (TypeError, ValueError):
            raise InputError("wants angles", field="angles") from None
        if values.ndim not in (1, 2) or values.shape[-1] != self.slots:
            wanted = f"({self.slots},) or (B, {self.slots})"
            raise InputError(f"wants shape {wanted}, got {values.shape}", field="angles")
        if not np.isfinite(values).all():
            raise InputError("holds an angle that is not finite", field="angles")
        return values

    def _start(self, start: ArrayLike | None, count: int) -> Complex:
        size = 2**self.qubits
        if start is None:
            psi = np.zeros((count, size), dtype=np.complex128)
            psi[:, 0] = 1.0
            return psi
        given = np.atleast_2d(np.asarray(start, dtype=np.complex128))
        if given.ndim != 2 or given.shape[1] != size or len(given) not in (1, count):
            raise InputError(f"wants shape ({count}, {size}), got {given.shape}", field="start")
        return np.repeat(given, count, axis=0) if len(given) != count else given

    def _observables(self, observables: ArrayLike | None) -> Floats:
        if observables is None:
            return z_diagonals(self.qubits, [(q,) for q in range(self.qubits)])
        table = np.atleast_2d(np.asarray(observables, dtype=np.float64))
        if table.ndim != 2 or table.shape[1] != 2**self.qubits:
            raise InputError(
                f"wants diagonals (K, {2**self.qubits}), got {table.shape}", field="observables"
            )
        return table

    def _guard(self, states: int) -> None:
        needed = 2 * 16 * states << self.qubits
        if needed > MAX_BYTES:
            raise InputError(
                f"{states} states of {self.qubits} qubits need {needed} bytes, at most "
                f"{MAX_BYTES} are allowed", field="angles",
            )  # fmt: skip


def strongly_entangling(
    qubits: int, layers: int, *, ranges: Sequence[int] | None = None
) -> ParametrisedCircuit:
    """Layers of ``rot`` on every qubit and a ring of CNOTs (Schuld et al., 2020), the same circuit
    as PennyLane's StronglyEntanglingLayers with weights (layers, qubits, 3), which in C order are
    the slots. ``ranges``: how far each layer's CNOTs reach, by default 1, 2, ..., qubits - 1, 1...
    """
    if isinstance(layers, bool) or layers < 1 or qubits < 1:
        raise InputError(f"wants at least 1, got {qubits} and {layers}", field="layers")
    if ranges is None:
        ranges = [layer % max(qubits - 1, 1) + 1 for layer in range(layers)]
    if len(ranges) != layers or (qubits > 1 and not all(0 < r < qubits for r in ranges)):
        raise InputError(f"wants {layers} numbers from 1 to {qubits - 1}", field="ranges")
    gates: list[ParametrisedGate] = []
    for layer, reach in enumerate(ranges):
        for q in range(qubits):
            first = 3 * (layer * qubits + q)
            gates.append(("rot", (q,), (first, first + 1, first + 2)))
        if qubits > 1:
            gates += [("cx", (q, (q + reach) % qubits), ()) for q in range(qubits)]
    return ParametrisedCircuit(qubits, tuple(gates))


def angle_encoding(qubits: int, axis: Literal["x", "y", "z"] = "y") -> ParametrisedCircuit:
    """A rotation by slot q on every qubit q (after ``h`` for ``z``, which would do nothing)."""
    if axis not in ("x", "y", "z"):
        raise InputError(f"'{axis}' is none of x, y, z", field="axis")
    gates: list[ParametrisedGate] = []
    for q in range(qubits):
        gates += [("h", (q,), ())] if axis == "z" else []
        gates.append((f"r{axis}", (q,), (q,)))
    return ParametrisedCircuit(qubits, tuple(gates))


def data_reuploading(
    qubits: int, layers: int, axis: Literal["x", "y", "z"] = "y"
) -> ParametrisedCircuit:
    """``layers`` times: encoding angles on every qubit, then one strongly entangling layer
    (Perez-Salinas et al., 2020). Slots of layer l: first ``qubits`` encoding angles, then
    3 ``qubits`` weights; ``reuploading_angles`` fills them.
    """
    if isinstance(layers, bool) or layers < 1:
        raise InputError(f"wants at least 1, got {layers}", field="layers")
    circuit: ParametrisedCircuit | None = None
    for layer in range(layers):
        reach = layer % max(qubits - 1, 1) + 1
        block = angle_encoding(qubits, axis).then(strongly_entangling(qubits, 1, ranges=[reach]))
        circuit = block if circuit is None else circuit.then(block)
    assert circuit is not None
    return circuit


def reuploading_angles(inputs: Any, scales: Any, weights: Any, stack: Any = None) -> Any:
    """Slots (B, layers * 4 * qubits) of ``data_reuploading``: layer l encodes
    scales[l, q] * inputs[:, q mod features] on qubit q.

    inputs (B, features), scales (layers, qubits), weights (layers, qubits, 3), arrays of NumPy
    (``stack=None``) or torch tensors (``stack=torch.cat``).
    """
    layers, qubits = scales.shape
    columns = [q % inputs.shape[1] for q in range(qubits)]
    data = inputs[:, columns]
    encoding = data[:, None, :] * scales
    fixed = weights.reshape(1, layers, 3 * qubits)
    if stack is None:
        fixed = np.broadcast_to(fixed, (len(data), layers, 3 * qubits))
        return np.concatenate([encoding, fixed], axis=2).reshape(len(data), -1)
    fixed = fixed.expand(len(data), layers, 3 * qubits)
    return stack([encoding, fixed], dim=2).reshape(len(data), -1)


def z_diagonals(qubits: int, strings: Sequence[Sequence[int]]) -> Floats:
    """(K, 2^qubits) diagonals of products of Z: ``[(0,), (0, 2)]`` is Z_0 and Z_0 Z_2."""
    index = np.arange(2**qubits)
    table = np.ones((len(strings), 2**qubits))
    for row, string in enumerate(strings):
        for q in string:
            if not 0 <= q < qubits:
                raise InputError(f"no qubit {q} of {qubits}", field="strings")
            table[row] *= 1.0 - 2.0 * ((index >> q) & 1)
    return table


def _elementary(
    gates: Sequence[ParametrisedGate],
) -> list[tuple[str, tuple[int, ...], int | None]]:
    """``rot`` taken apart: gates with one slot or none."""
    result: list[tuple[str, tuple[int, ...], int | None]] = []
    for name, qubits, slots in gates:
        if name == "rot":
            result += zip(("rz", "ry", "rz"), (qubits,) * 3, slots, strict=True)
        else:
            result.append((name, qubits, slots[0] if slots else None))
    return result
