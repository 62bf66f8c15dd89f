"""Where circuits run: built-in, PennyLane's devices, Qiskit's and Braket's, behind one gateway."""

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
from qcluster.quantum.backends.braket_backend import BraketBackend
from qcluster.quantum.backends.circuit import MAX_QUBITS, Circuit, qaoa_circuit, sample_counts
from qcluster.quantum.backends.gateway import Gateway, GatewayResult
from qcluster.quantum.backends.pennylane_backend import PennyLaneBackend
from qcluster.quantum.backends.qiskit_backend import QiskitBackend

__all__ = [
    "BACKENDS",
    "MAX_QUBITS",
    "Backend",
    "BraketBackend",
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
