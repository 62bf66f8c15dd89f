"""qcluster's exact simulator as a PennyLane device: ``qml.device("qcluster.qubit", wires=n)``.

States are evolved by this package's gate kernel in complex128; wires, measurements and sampling
follow PennyLane's own rules and use its code. Gradients are by parameter-shift. For circuits of
QAOA layers ``QAOASimulator`` is far faster: it knows that the cost is diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pennylane as qml
from numpy.typing import NDArray
from pennylane.devices import Device, ExecutionConfig
from pennylane.devices.modifiers import simulator_tracking, single_tape_support
from pennylane.devices.preprocess import (
    decompose,
    device_resolve_dynamic_wires,
    validate_device_wires,
    validate_measurements,
)
from pennylane.devices.qubit import create_initial_state, measure, measure_with_samples

from qcluster.errors import InputError
from qcluster.quantum.backends.circuit import MAX_QUBITS, apply_matrix

__all__ = ["QClusterDevice"]

Complex = NDArray[np.complex128]


@simulator_tracking
@single_tape_support
class QClusterDevice(Device):
    """An exact state-vector device.

    Parameters
    ----------
    wires: their number or labels; None takes those of each circuit.
    shots: PennyLane's default number of measurements; None is exact.
    seed: of the sampling; every execution draws on from it.

    Executing a circuit of more than 24 wires raises InputError with the byte count.
    """

    name = "qcluster.qubit"

    def __init__(self, wires: Any = None, shots: Any = None, seed: int | None = None) -> None:
        super().__init__(wires=wires, shots=shots)
        self._generator = np.random.default_rng(seed)

    def preprocess_transforms(
        self, execution_config: ExecutionConfig | None = None
    ) -> qml.CompilePipeline:
        """What turns any circuit into gates with matrices on this device's wires."""
        del execution_config
        program = qml.CompilePipeline()
        program.add_transform(qml.defer_measurements, allow_postselect=False)
        program.add_transform(
            decompose, stopping_condition=_has_matrix, device_wires=self.wires, name=self.name
        )
        program.add_transform(device_resolve_dynamic_wires, wires=self.wires, allow_resets=False)
        program.add_transform(validate_device_wires, self.wires, name=self.name)
        program.add_transform(validate_measurements, name=self.name)
        program.add_transform(qml.transforms.broadcast_expand)
        return program

    def execute(
        self, circuits: Sequence[Any], execution_config: ExecutionConfig | None = None
    ) -> tuple[Any, ...]:
        """Results of each circuit in PennyLane's return types."""
        del execution_config
        return tuple(self._run(circuit.map_to_standard_wires()) for circuit in circuits)

    def _run(self, circuit: Any) -> Any:
        n = circuit.num_wires
        if n > MAX_QUBITS:
            raise InputError(
                f"a state of {n} qubits takes {16 << n} bytes, at most {MAX_QUBITS} are simulated",
                field="wires",
            )
        state = _evolve(circuit, n).reshape((2,) * n)
        if circuit.shots:
            found = measure_with_samples(
                circuit.measurements, state, shots=circuit.shots, rng=self._generator
            )
            several = circuit.shots.has_partitioned_shots
            if len(circuit.measurements) == 1:
                return tuple(part[0] for part in found) if several else found[0]
            return found
        values = tuple(measure(measurement, state) for measurement in circuit.measurements)
        return values[0] if len(values) == 1 else values


def _evolve(circuit: Any, n: int) -> Complex:
    operations = circuit.operations
    prepare = None
    if operations and isinstance(operations[0], qml.operation.StatePrepBase):
        prepare, operations = operations[0], operations[1:]
    start = create_initial_state(range(n), prepare)
    state = np.asarray(start, dtype=np.complex128).reshape(-1)
    for operation in operations:
        if isinstance(operation, (qml.Barrier, qml.Identity, qml.Snapshot)):
            continue
        # PennyLane's wire 0 is the most significant bit, and so is a matrix's first wire.
        qubits = [n - 1 - wire for wire in reversed(operation.wires)]
        matrix = np.asarray(operation.matrix(), dtype=np.complex128)
        state = apply_matrix(state, matrix, qubits)
    return state


def _has_matrix(operation: Any) -> bool:
    """Whether a gate is applied as it is; larger ones are decomposed first."""
    if isinstance(operation, (qml.Barrier, qml.Snapshot)):
        return True
    small = len(operation.wires) <= 6 or isinstance(operation, qml.GlobalPhase)
    return bool(operation.has_matrix) and small
