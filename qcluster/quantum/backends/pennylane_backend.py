"""Any PennyLane device as a backend: ``pennylane:lightning.qubit``, or the device's bare name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qcluster.deadline import Deadline
from qcluster.errors import MissingDependency
from qcluster.quantum.backends.backend import BACKENDS, Capabilities, Counts, Queue
from qcluster.quantum.backends.circuit import MAX_QUBITS, Circuit

__all__ = ["PennyLaneBackend"]


class PennyLaneBackend:
    """Runs circuits on ``qml.device(device, **options)``, a new one for each circuit.

    PennyLane does not say how busy a device is, so the queue is always empty; ``qubits`` is what
    is said of its size. Devices that take a seed get one. Raises MissingDependency without
    PennyLane.
    """

    def __init__(
        self, device: str = "default.qubit", *, qubits: int = MAX_QUBITS, **options: Any
    ) -> None:
        try:
            import pennylane  # noqa: F401
        except ImportError:
            raise MissingDependency("pennylane", needed_for=f"the device {device}") from None
        self.name, self._device, self._qubits, self._options = device, device, qubits, options

    def capabilities(self) -> Capabilities:
        return Capabilities(qubits=self._qubits, max_shots=10**6, simulator=True)

    def queue(self) -> Queue:
        return Queue(operational=True)

    def run(
        self, circuits: Sequence[Circuit], *, shots: int, seeds: Sequence[int], deadline: Deadline
    ) -> list[Counts]:
        results = []
        for circuit, seed in zip(circuits, seeds, strict=True):
            deadline.check()
            results.append(self._counts(circuit, shots, seed))
        return results

    def _counts(self, circuit: Circuit, shots: int, seed: int) -> Counts:
        import pennylane as qml

        wires = range(circuit.qubits)
        try:
            device = qml.device(self._device, wires=wires, seed=seed, **self._options)
        except TypeError:  # a device without a seed
            device = qml.device(self._device, wires=wires, **self._options)
        gates = {"h": qml.Hadamard, "x": qml.PauliX, "rx": qml.RX, "ry": qml.RY, "rz": qml.RZ,
                 "rzz": qml.IsingZZ, "cx": qml.CNOT}  # fmt: skip
        rotations = {"rx", "ry", "rz", "rzz"}
        operations = [
            gates[name](angle, wires=qubits) if name in rotations else gates[name](wires=qubits)
            for name, qubits, angle in circuit.gates
        ]
        tape = qml.tape.QuantumScript(operations, [qml.sample(wires=wires)], shots=shots)
        (bits,) = qml.execute([tape], device, diff_method=None)
        index = np.asarray(bits).reshape(shots, -1).astype(np.int64) @ (1 << np.arange(len(wires)))
        states, counts = np.unique(index, return_counts=True)
        return dict(zip(states.tolist(), counts.tolist(), strict=True))


BACKENDS.register("pennylane", lambda rest: PennyLaneBackend(rest or "default.qubit"))
