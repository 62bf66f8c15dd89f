"""The batched simulator of parametrised circuits, against PennyLane and against itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.deadline import Deadline
from qcluster.errors import InputError
from qcluster.quantum import circuits
from qcluster.quantum.backends import BuiltinBackend
from qcluster.quantum.circuits import ParametrisedCircuit

GATES = {"h": "Hadamard", "x": "PauliX", "rx": "RX", "ry": "RY", "rz": "RZ", "rot": "Rot",
         "rzz": "IsingZZ", "cx": "CNOT", "cz": "CZ"}  # fmt: skip


def pennylane_state(circuit, angles):
    """The same gates on default.qubit, qubit 0 made the least significant bit."""
    import pennylane as qml

    n = circuit.qubits

    @qml.qnode(qml.device("default.qubit", wires=n))
    def run():
        for name, qubits, slots in circuit.gates:
            gate = getattr(qml, GATES[name])
            gate(*(angles[s] for s in slots), wires=list(qubits))
        return qml.state()

    state = np.asarray(run()).reshape((2,) * n)
    return state.transpose(range(n - 1, -1, -1)).ravel()


@st.composite
def any_circuit(draw):
    """Up to 4 qubits, 12 gates; slots are shared between gates."""
    n = draw(st.integers(1, 4))
    gates = []
    for _ in range(draw(st.integers(0, 12))):
        names = [g for g, (q, _) in circuits.GATES.items() if q <= n]
        name = draw(st.sampled_from(names))
        width, count = circuits.GATES[name]
        qubits = tuple(draw(st.permutations(range(n)))[:width])
        gates.append((name, qubits, tuple(draw(st.integers(0, 5)) for _ in range(count))))
    return ParametrisedCircuit(n, tuple(gates))


@given(circuit=any_circuit(), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_states_equal_pennylane(circuit, seed):
    angles = np.random.default_rng(seed).uniform(-7, 7, circuit.slots)
    ours = circuit.states(angles)
    assert np.abs(ours - pennylane_state(circuit, angles)).max() < 1e-13


@given(circuit=any_circuit(), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_both_gradients_agree_also_with_shared_slots(circuit, seed):
    rng = np.random.default_rng(seed)
    angles = rng.uniform(-7, 7, (3, circuit.slots))
    table = rng.normal(size=(2, 2**circuit.qubits))
    value, adjoint = circuit.jacobian(angles, table)
    again, shift = circuit.jacobian(angles, table, mode="parameter-shift")
    assert value.shape == (3, 2)
    assert adjoint.shape == (3, 2, circuit.slots)
    assert np.allclose(value, again, atol=1e-12)
    assert np.allclose(adjoint, shift, atol=1e-10)
    weights = rng.normal(size=(3, 2))
    pulled = circuit.pull_back(angles, weights, table)
    assert np.allclose(pulled, np.einsum("bk,bks->bs", weights, adjoint), atol=1e-12)


def test_gradient_is_the_derivative():
    circuit = circuits.strongly_entangling(3, 2)
    rng = np.random.default_rng(0)
    angles, step = rng.uniform(-3, 3, circuit.slots), 1e-6
    _, jacobian = circuit.jacobian(angles)
    for slot in range(circuit.slots):
        move = np.zeros(circuit.slots)
        move[slot] = step
        slope = (circuit.expectations(angles + move) - circuit.expectations(angles - move)) / 2e-6
        assert np.allclose(slope, jacobian[:, slot], atol=1e-8)


@pytest.mark.parametrize(("qubits", "layers"), [(1, 2), (2, 3), (4, 5)])
def test_strongly_entangling_is_pennylanes(qubits, layers):
    import pennylane as qml

    circuit = circuits.strongly_entangling(qubits, layers)
    weights = np.random.default_rng(1).uniform(-3, 3, (layers, qubits, 3))

    @qml.qnode(qml.device("default.qubit", wires=qubits))
    def run():
        qml.StronglyEntanglingLayers(weights, wires=range(qubits))
        return [qml.expval(qml.PauliZ(q)) for q in range(qubits)]

    assert np.allclose(circuit.expectations(weights.ravel()), run(), atol=1e-13)


def test_data_reuploading_encodes_scaled_features_before_every_layer():
    circuit = circuits.data_reuploading(3, 2, "x")
    rng = np.random.default_rng(2)
    inputs, scales = rng.normal(size=(4, 2)), rng.normal(size=(2, 3))
    weights = rng.normal(size=(2, 3, 3))
    angles = circuits.reuploading_angles(inputs, scales, weights)
    assert angles.shape == (4, circuit.slots) == (4, 24)
    by_hand = circuits.angle_encoding(3, "x")
    whole = by_hand.then(circuits.strongly_entangling(3, 1)).then(
        by_hand.then(circuits.strongly_entangling(3, 1, ranges=[2]))
    )
    columns = [inputs[1, [0, 1, 0]] * scales[0], weights[0].ravel(),
               inputs[1, [0, 1, 0]] * scales[1], weights[1].ravel()]  # fmt: skip
    expected = whole.states(np.concatenate(columns))
    assert np.allclose(circuit.states(angles)[1], expected, atol=1e-14)


def test_one_set_of_angles_is_a_batch_of_one():
    circuit = circuits.strongly_entangling(3, 1)
    angles = np.linspace(0, 1, 9)
    assert circuit.states(angles).shape == (8,)
    assert np.array_equal(circuit.states(angles), circuit.states(angles[None])[0])
    assert circuit.jacobian(angles)[1].shape == (3, 9)


def test_start_amplitudes_take_the_place_of_zero():
    circuit = ParametrisedCircuit(2, (("cx", (0, 1), ()),))
    start = np.array([0, 1, 0, 0], dtype=complex)  # qubit 0 is set, so qubit 1 turns
    assert np.allclose(circuit.states(np.empty(0), start), [0, 0, 0, 1])
    many = circuit.states(np.empty((3, 0)), start)
    assert many.shape == (3, 4)
    with pytest.raises(InputError, match="start"):
        circuit.states(np.empty(0), [1.0, 0.0])


def test_bound_circuit_measures_the_same():
    circuit = ParametrisedCircuit(
        3, (("h", (0,), ()), ("cz", (0, 1), ()), ("rot", (1,), (0, 1, 2)), ("rzz", (0, 2), (1,)),
            ("rx", (2,), (0,)), ("cx", (2, 0), ()))
    )  # fmt: skip
    angles = np.array([0.3, -1.1, 2.0])
    [counts] = BuiltinBackend().run(
        [circuit.bind(angles)], shots=200_000, seeds=[1], deadline=Deadline.never()
    )
    exact = np.abs(circuit.states(angles)) ** 2
    measured = np.array([counts.get(k, 0) for k in range(8)]) / 200_000
    assert np.abs(measured - exact).max() < 5 * 0.5 / np.sqrt(200_000)


def test_shots_scatter_about_the_exact_value_and_are_seeded():
    circuit = circuits.strongly_entangling(2, 1)
    angles = np.random.default_rng(3).uniform(-3, 3, (5, 6))
    exact = circuit.expectations(angles)
    drawn = circuit.expectations(angles, shots=4000, seed=4)
    assert np.abs(drawn - exact).max() < 5 / np.sqrt(4000)
    assert np.array_equal(drawn, circuit.expectations(angles, shots=4000, seed=4))
    assert not np.array_equal(drawn, circuit.expectations(angles, shots=4000, seed=5))


def test_strings_of_z():
    table = circuits.z_diagonals(2, [(), (0,), (0, 1)])
    assert table.tolist() == [[1, 1, 1, 1], [1, -1, 1, -1], [1, -1, -1, 1]]
    with pytest.raises(InputError, match="no qubit 2"):
        circuits.z_diagonals(2, [(2,)])


@pytest.mark.parametrize(
    ("gate", "field"),
    [
        (("foo", (0,), ()), "gates"),
        (("rx", (2,), (0,)), "gates"),
        (("rx", (0,), ()), "gates"),
        (("rx", (0,), (-1,)), "gates"),
        (("cx", (1, 1), ()), "gates"),
    ],
)
def test_wrong_gates_are_named(gate, field):
    with pytest.raises(InputError, match=field):
        ParametrisedCircuit(2, (gate,))


def test_wrong_angles_and_sizes_are_named():
    circuit = circuits.strongly_entangling(2, 1)
    with pytest.raises(InputError, match=r"wants shape \(6,\)"):
        circuit.states(np.zeros(5))
    with pytest.raises(InputError, match="not finite"):
        circuit.states(np.full(6, np.nan))
    with pytest.raises(InputError, match="wants angles"):
        circuit.states([["a"]])
    with pytest.raises(InputError, match="diagonals"):
        circuit.expectations(np.zeros(6), np.zeros((1, 3)))
    with pytest.raises(InputError, match="not a batch"):
        circuit.bind(np.zeros((2, 6)))
    with pytest.raises(InputError, match="mode"):
        circuit.jacobian(np.zeros(6), mode="finite")
    with pytest.raises(InputError, match="shots"):
        circuit.expectations(np.zeros(6), shots=0)
    with pytest.raises(InputError, match="cotangents"):
        circuit.pull_back(np.zeros(6), [1.0])
    with pytest.raises(InputError, match="qubits"):
        circuit.then(circuits.strongly_entangling(3, 1))
    with pytest.raises(InputError, match="layers"):
        circuits.strongly_entangling(2, 0)
    with pytest.raises(InputError, match="layers"):
        circuits.data_reuploading(2, 0)
    with pytest.raises(InputError, match="ranges"):
        circuits.strongly_entangling(2, 1, ranges=[2])
    with pytest.raises(InputError, match="axis"):
        circuits.angle_encoding(2, "w")
    with pytest.raises(InputError, match="at least 1"):
        ParametrisedCircuit(0, ())


def test_memory_is_refused_with_the_byte_count():
    circuit = circuits.angle_encoding(30)
    with pytest.raises(InputError, match="34359738368 bytes"):
        circuit.states(np.zeros(30))
