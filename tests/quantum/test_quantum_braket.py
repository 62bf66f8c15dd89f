"""Braket: against a double of the SDK's classes, and its local simulator if it is there."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from qcluster.deadline import Deadline
from qcluster.errors import DeadlineExceeded, InputError, MissingDependency, SolverFailed
from qcluster.quantum.backends import BraketBackend, Circuit, Gateway, open_backend, sample_counts
from qcluster.quantum.backends.braket_backend import queue_length, to_braket
from qcluster.quantum.backends.circuit import final_state

OURS = {"h": "h", "x": "x", "rx": "rx", "ry": "ry", "rz": "rz", "zz": "rzz", "cnot": "cx"}
ANGLES = {"rx", "ry", "rz", "zz"}
SAMPLE = Circuit(
    3, (("h", (0,), 0.0), ("ry", (2,), 0.7), ("cx", (0, 1), 0.0), ("rzz", (1, 2), 0.4),
        ("rx", (0,), -1.1), ("rz", (1,), 0.2), ("x", (2,), 0.0))
)  # fmt: skip


class CircuitDouble:
    """Takes Braket's calls and keeps them as our gates."""

    def __init__(self):
        self.gates, self.width = [], 0

    def __getattr__(self, name):
        def add(*arguments):
            qubits = arguments[:-1] if name in ANGLES else arguments
            self.width = max(self.width, *(q + 1 for q in qubits))
            if name != "i":
                angle = arguments[-1] if name in ANGLES else 0.0
                self.gates.append((OURS[name], tuple(qubits), angle))
            return self

        return add


class TaskDouble:
    def __init__(self, counts, state="COMPLETED"):
        self.counts, self._state, self.cancelled = counts, state, False

    def result(self):
        if isinstance(self.counts, Exception):
            raise self.counts
        return self.counts and types.SimpleNamespace(measurement_counts=self.counts)

    def state(self):
        return self._state

    def cancel(self):
        self.cancelled = True
        raise RuntimeError("already gone")


class AwsDeviceDouble:
    """``AwsDevice``: queue depths are text, results have qubit 0 first."""

    def __init__(self, depths=("3", "1"), available=True, outcome=None, kind="QPU"):
        names = ("Normal", "Priority")
        self.depths = dict(zip(names, depths, strict=True))
        self.is_available, self.outcome, self.tasks = available, outcome, []
        self.type = types.SimpleNamespace(value=kind)
        self.properties = types.SimpleNamespace(
            paradigm=types.SimpleNamespace(qubitCount=11),
            service=types.SimpleNamespace(shotsRange=(1, 8192)),
        )

    def queue_depth(self):
        return types.SimpleNamespace(quantum_tasks=self.depths, jobs="0 (1 prioritized)")

    def run(self, circuit, *, shots, poll_timeout_seconds):
        assert poll_timeout_seconds > 0
        if self.outcome is not None:
            task = self.outcome
        else:
            counts = sample_counts(Circuit(circuit.width, tuple(circuit.gates)), shots, 1)
            task = TaskDouble(
                {f"{state:0{circuit.width}b}"[::-1]: number for state, number in counts.items()}
            )
        self.tasks.append(task)
        return task


@pytest.fixture
def sdk(monkeypatch):
    module = types.ModuleType("braket.circuits")
    module.Circuit = CircuitDouble
    monkeypatch.setitem(sys.modules, "braket", types.ModuleType("braket"))
    monkeypatch.setitem(sys.modules, "braket.circuits", module)


def far(counts, circuit, shots):
    exact = np.abs(final_state(circuit, Deadline.never())) ** 2
    measured = np.array([counts.get(k, 0) / shots for k in range(len(exact))])
    return np.abs(exact - measured).sum() / 2


@pytest.mark.usefixtures("sdk")
def test_gates_and_bits_arrive_as_they_were_meant():
    made = to_braket(SAMPLE)
    assert tuple(made.gates) == SAMPLE.gates
    idle = to_braket(Circuit(4, (("h", (1,), 0.0),)))
    assert idle.width == 4
    backend = BraketBackend("braket:double", AwsDeviceDouble())
    (counts,) = backend.run([SAMPLE], shots=4000, seeds=[0], deadline=Deadline.after(30))
    assert far(counts, SAMPLE, 4000) < 0.05


def test_what_a_machine_says_of_itself():
    backend = BraketBackend("braket:double", AwsDeviceDouble(("12", ">4000")))
    able, queue = backend.capabilities(), backend.queue()
    assert (able.qubits, able.max_shots, able.simulator) == (11, 8192, False)
    assert (queue.operational, queue.pending) == (True, 4013)
    assert not BraketBackend("b", AwsDeviceDouble(available=False)).queue().operational
    assert BraketBackend("b", AwsDeviceDouble(kind="SIMULATOR")).capabilities().simulator


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("7", 7), (">4000", 4001), (" 12 ", 12)])
def test_queue_depths_are_text(text, number):
    assert queue_length(text) == number


@pytest.mark.parametrize("text", ["", "many", "-1", "3 (1 prioritized)", None])
def test_other_text_is_refused(text):
    with pytest.raises(InputError, match="queue_depth"):
        queue_length(text)


@pytest.mark.usefixtures("sdk")
@pytest.mark.parametrize(
    ("task", "error", "words"),
    [
        (TaskDouble(None, "QUEUED"), DeadlineExceeded, "still QUEUED"),
        (TaskDouble(None, "FAILED"), SolverFailed, "FAILED"),
        (TaskDouble(OSError("no route")), OSError, "no route"),
    ],
)
def test_tasks_that_do_not_finish_are_cancelled(task, error, words):
    device = AwsDeviceDouble(outcome=task)
    with pytest.raises(error, match=words):
        BraketBackend("b", device).run([SAMPLE] * 2, shots=9, seeds=[0, 0],
                                       deadline=Deadline.after(5))  # fmt: skip
    assert len(device.tasks) == 2
    assert all(task.cancelled for task in device.tasks)


@pytest.mark.usefixtures("sdk")
def test_behind_the_gateway():
    fine = Gateway([BraketBackend("braket:qpu", AwsDeviceDouble(("1", "0")))])
    result = fine.run([SAMPLE], shots=100)
    assert (result.backend, result.pending, result.simulator) == ("braket:qpu", 1, False)
    for depths, words in ((("4", ">4000"), "4005 jobs wait"), (("soon", "0"), "status failed")):
        busy = Gateway([BraketBackend("braket:qpu", AwsDeviceDouble(depths))])
        result = busy.run([SAMPLE], shots=100)
        assert result.backend == "builtin"
        assert words in result.fallback_reason


def test_without_the_sdk_it_says_what_to_install(monkeypatch):
    for name in ("braket", "braket.devices", "braket.circuits", "braket.aws"):
        monkeypatch.setitem(sys.modules, name, None)
    for selector in ("braket:", "braket:local", "braket:arn:aws:braket:::device/qpu/x/y"):
        with pytest.raises(MissingDependency, match="braket"):
            open_backend(selector)
    with pytest.raises(MissingDependency, match="braket"):
        to_braket(SAMPLE)


@pytest.mark.filterwarnings("ignore")
def test_the_local_simulator_samples_the_circuit():
    pytest.importorskip("braket.devices")
    backend = open_backend("braket:local")
    assert backend.queue().operational
    assert backend.capabilities().qubits > 10
    assert backend.capabilities().simulator
    idle = Circuit(3, (("h", (1,), 0.0),))
    first, second = backend.run([SAMPLE, idle], shots=4000, seeds=[0, 1],
                                deadline=Deadline.after(60))  # fmt: skip
    assert far(first, SAMPLE, 4000) < 0.05
    assert far(second, idle, 4000) < 0.05
