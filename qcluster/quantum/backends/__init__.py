"""Where circuits run: the built-in simulator, PennyLane devices, Qiskit's, behind one gateway."""

from __future__ import annotations

from qcluster.quantum.backends.backend import (
    BACKENDS,
    Backend,
    BuiltinBackend,
    Capabilities,
    Counts,
    LazyBackend,
    Queue,
    check_counts,
    open_backend,
)
from qcluster.quantum.backends.circuit import MAX_QUBITS, Circuit, qaoa_circuit, sample_counts
from qcluster.quantum.backends.gateway import Gateway, GatewayResult
from qcluster.quantum.backends.pennylane_backend import PennyLaneBackend
from qcluster.quantum.backends.qiskit_backend import QiskitBackend

__all__ = [
    "BACKENDS",
    "MAX_QUBITS",
    "Backend",
    "BuiltinBackend",
    "Capabilities",
    "Circuit",
    "Counts",
    "Gateway",
    "GatewayResult",
    "LazyBackend",
    "PennyLaneBackend",
    "QiskitBackend",
    "Queue",
    "check_counts",
    "open_backend",
    "qaoa_circuit",
    "sample_counts",
]
