"""Circuits mean the same everywhere: built-in simulation, PennyLane, Qiskit and the QAOA engine."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.deadline import Deadline
from qcluster.errors import InputError, NotFound
from qcluster.quantum import IsingProblem, QAOASimulator
from qcluster.quantum.backends import (
    BACKENDS,
    BuiltinBackend,
    Circuit,
    QiskitBackend,
    open_backend,
    qaoa_circuit,
    sample_counts,
)
from qcluster.quantum.backends.circuit import GATES, final_state, gate_matrix
from qcluster.quantum.backends.qiskit_backend import to_qiskit


def random_circuit(generator, qubits, count):
    names = [name for name, (width, _) in GATES.items() if width <= qubits]
    gates = []
    for name in generator.choice(names, size=count):
        wires = tuple(int(q) for q in generator.permutation(qubits)[: GATES[name][0]])
        gates.append((str(name), wires, float(generator.normal()) * GATES[name][1]))
    return Circuit(qubits, tuple(gates))


def distance(counts, circuit, shots):
    """Total variation distance of measured frequencies from the exact probabilities."""
    exact = np.abs(final_state(circuit, Deadline.never())) ** 2
    measured = np.zeros_like(exact)
    for state, number in counts.items():
        measured[state] = number / shots
    return np.abs(exact - measured).sum() / 2


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(0, 20), st.integers(0, 2**16))
def test_states_are_qiskits(qubits, count, seed):
    from qiskit.quantum_info import Statevector

    circuit = random_circuit(np.random.default_rng(seed), qubits, count)
    made = to_qiskit(circuit).remove_final_measurements(inplace=False)
    theirs = Statevector(made).data
    assert np.allclose(final_state(circuit, Deadline.never()), theirs, atol=1e-12)


@pytest.mark.parametrize("name", GATES)
def test_gates_are_unitary(name):
    matrix = gate_matrix(name, 0.7)
    assert np.allclose(matrix @ matrix.conj().T, np.eye(len(matrix)), atol=1e-15)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(0, 3), st.integers(0, 2**16))
def test_the_qaoa_circuit_is_the_engines_state(n, layers, seed):
    generator = np.random.default_rng(seed)
    problem = IsingProblem(generator.normal(size=n), np.triu(generator.normal(size=(n, n)), 1))
    gammas, betas = generator.normal(size=(2, layers))
    ours = final_state(qaoa_circuit(problem, gammas, betas), Deadline.never())
    engine = QAOASimulator(problem).state(gammas, betas)
    assert abs(np.vdot(ours, engine)) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("selector", ["builtin", "default.qubit", "pennylane:lightning.qubit"])
def test_every_backend_samples_the_circuit(selector):
    circuit = random_circuit(np.random.default_rng(4), 3, 15)
    backend = open_backend(selector)
    assert backend.queue().operational
    assert backend.capabilities().qubits >= 3
    deadline = Deadline.after(60)
    first, second = backend.run([circuit, circuit], shots=4000, seeds=[1, 1], deadline=deadline)
    assert distance(first, circuit, 4000) < 0.05
    assert sum(second.values()) == 4000
    if selector != "pennylane:lightning.qubit":
        assert first == second


def test_qiskit_devices_are_compiled_for_and_sampled():
    from qiskit.primitives import BackendSamplerV2
    from qiskit.providers.basic_provider import BasicSimulator

    def sampler(device, seed):
        return BackendSamplerV2(backend=device, options={"seed_simulator": seed})

    backend = QiskitBackend("basic", BasicSimulator(), sampler)
    circuit = random_circuit(np.random.default_rng(4), 3, 15)
    assert backend.queue().operational
    assert backend.run([], shots=1, seeds=[], deadline=Deadline.after(60)) == []
    (counts,) = backend.run([circuit], shots=4000, seeds=[1], deadline=Deadline.after(60))
    assert distance(counts, circuit, 4000) < 0.05


@pytest.mark.parametrize(
    ("library", "selector", "close"),
    [
        ("qiskit_aer", "aer:", 0.05),
        ("qiskit_aer", "aer:matrix_product_state", 0.05),
        ("qiskit_ibm_runtime", "ibm:fake_manila", 0.3),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_optional_backends_sample_the_circuit(library, selector, close):
    pytest.importorskip(library)
    circuit = qaoa_circuit(IsingProblem([0.3, -0.2, 0.1], {(0, 1): 1.0, (1, 2): -0.5}), [0.4], [-1])
    backend = open_backend(selector)
    status = backend.queue()
    assert (status.operational, status.pending) == (True, 0)
    (counts,) = backend.run([circuit], shots=4000, seeds=[1], deadline=Deadline.after(60))
    assert distance(counts, circuit, 4000) < close
    (again,) = backend.run([circuit], shots=4000, seeds=[1], deadline=Deadline.after(60))
    assert again == counts


def test_an_optional_library_that_is_missing_is_named():
    from qcluster.errors import MissingDependency

    for library, selector in (("qiskit_aer", "aer:"), ("qiskit_ibm_runtime", "ibm:auto")):
        try:
            __import__(library)
        except ImportError:
            with pytest.raises(MissingDependency, match="pip install"):
                open_backend(selector)


def test_names_of_backends():
    assert {"builtin", "pennylane", "ibm", "aer"} <= set(BACKENDS.names())
    assert isinstance(open_backend("builtin"), BuiltinBackend)
    with pytest.raises(NotFound, match="there are"):
        open_backend("nowhere:x")
    with pytest.raises(InputError):
        open_backend("")


def test_sampling_is_repeatable():
    circuit = random_circuit(np.random.default_rng(2), 4, 12)
    assert sample_counts(circuit, 500, 3) == sample_counts(circuit, 500, 3)
    assert sum(sample_counts(circuit, 500, 3).values()) == 500


@pytest.mark.parametrize(
    ("qubits", "gates", "field"),
    [
        (0, (), "qubits"),
        (2, (("swap", (0, 1), 0.0),), "gates"),
        (2, (("h", (2,), 0.0),), "gates"),
        (2, (("cx", (1, 1), 0.0),), "gates"),
        (2, (("rx", (0, 1), 0.1),), "gates"),
        (2, (("rx", (0,), float("nan")),), "gates"),
    ],
)
def test_bad_circuits_are_refused(qubits, gates, field):
    with pytest.raises(InputError) as caught:
        Circuit(qubits, gates)
    assert caught.value.field == field
    with pytest.raises(InputError):
        qaoa_circuit(IsingProblem([1.0]), [0.1], [0.1, 0.2])
