"""Amazon Braket's devices as backends (``braket:``): machines, AWS's simulators, the local one.

Needs amazon-braket-sdk. Credentials stay where boto3 keeps them. Braket gives queue depths as text
('7', or '>4000' when it stops counting).
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Sequence
from typing import Any

from qcluster.deadline import Deadline
from qcluster.errors import DeadlineExceeded, InputError, MissingDependency, SolverFailed
from qcluster.quantum.backends.backend import BACKENDS, Capabilities, Counts, Queue
from qcluster.quantum.backends.circuit import Circuit

__all__ = ["BraketBackend", "open_braket", "queue_length", "to_braket"]

# Ours -> Braket's names; rotations are the same exponentials there.
_GATES = {"h": "h", "x": "x", "rx": "rx", "ry": "ry", "rz": "rz", "rzz": "zz", "cx": "cnot"}
_ROTATIONS = {"rx", "ry", "rz", "rzz"}


class BraketBackend:
    """A Braket ``device`` (``AwsDevice`` or ``LocalSimulator``).

    Tasks are sent one a circuit, so that they wait in the queue side by side; those that are not
    done at the deadline are cancelled. Braket takes no seeds.
    """

    def __init__(self, name: str, device: Any) -> None:
        self.name, self._device = name, device
        self._remote = hasattr(device, "queue_depth")

    def capabilities(self) -> Capabilities:
        properties = self._device.properties
        qubits = int(properties.paradigm.qubitCount)
        return Capabilities(
            qubits=qubits,
            max_shots=min(int(properties.service.shotsRange[1]), 10**9),
            simulator=not self._remote or _is_simulator(self._device),
        )

    def queue(self) -> Queue:
        if not self._remote:
            return Queue(operational=True)
        tasks = self._device.queue_depth().quantum_tasks
        return Queue(
            operational=bool(self._device.is_available),
            pending=sum(queue_length(text) for text in tasks.values()),
        )

    def run(
        self,
        circuits: Sequence[Circuit],
        *,
        shots: int,
        seeds: Sequence[int],  # noqa: ARG002 - Braket's devices take none
        deadline: Deadline,
    ) -> list[Counts]:
        made = [to_braket(circuit) for circuit in circuits]
        deadline.check()
        options: dict[str, Any] = {"shots": shots}
        if self._remote:
            options["poll_timeout_seconds"] = max(deadline.remaining(), 0.1)
        tasks: list[Any] = []
        try:
            for circuit in made:
                tasks.append(self._device.run(circuit, **options))  # noqa: PERF401 - one may fail
            return [self._counts(task) for task in tasks]
        except BaseException:
            for task in tasks if self._remote else []:
                _cancel(task)
            raise

    def _counts(self, task: Any) -> Counts:
        result = task.result()
        if result is None:  # Braket's way to say that it stopped waiting, or that the task failed
            state = task.state() if hasattr(task, "state") else "unknown"
            if state in ("FAILED", "CANCELLED"):
                raise SolverFailed(f"the task ended as {state}")
            raise DeadlineExceeded(f"the task was still {state} at the deadline")
        # Braket writes qubit 0 first; it is our least significant bit.
        return {
            int(bits[::-1], 2): int(number) for bits, number in result.measurement_counts.items()
        }


def queue_length(text: object) -> int:
    """A queue depth of Braket's: '7' is 7, '>4000' is 4001. Raises InputError for other text."""
    found = re.fullmatch(r"\s*(>?)\s*([0-9]+)\s*", str(text))
    if found is None:
        raise InputError(f"wants a number of tasks, got {text!r}", field="queue_depth")
    return int(found[2]) + bool(found[1])


def to_braket(circuit: Circuit) -> Any:
    """The circuit as Braket's; every qubit has at least the identity, so that all are measured.

    Raises MissingDependency without amazon-braket-sdk.
    """
    made = _load("braket.circuits").Circuit()
    for name, qubits, angle in circuit.gates:
        getattr(made, _GATES[name])(*qubits, *((angle,) if name in _ROTATIONS else ()))
    used = {qubit for _, qubits, _ in circuit.gates for qubit in qubits}
    for qubit in sorted(set(range(circuit.qubits)) - used):
        made.i(qubit)
    return made


def open_braket(rest: str) -> BraketBackend:
    """``local`` (or nothing) for the local simulator, else a device's ARN.

    Raises MissingDependency without amazon-braket-sdk.
    """
    if rest in ("", "local"):
        return BraketBackend("braket:local", _load("braket.devices").LocalSimulator())
    return BraketBackend(f"braket:{rest}", _load("braket.aws").AwsDevice(rest))


def _load(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingDependency(
            "amazon-braket-sdk", needed_for="Braket's devices", extra="braket"
        ) from None


def _is_simulator(device: Any) -> bool:
    kind = getattr(device, "type", None)
    return str(getattr(kind, "value", kind)).upper() == "SIMULATOR"


def _cancel(task: Any) -> None:
    """As well as it goes: the reason to cancel is what the caller shall hear."""
    with contextlib.suppress(Exception):
        task.cancel()


BACKENDS.register("braket", open_braket)
