"""The PennyLane device gives what default.qubit gives; PennyLane's own suite is run apart."""

from __future__ import annotations

import itertools

import numpy as np
import pennylane as qml
import pytest

from qcluster.errors import InputError
from qcluster.quantum.pennylane_device import QClusterDevice


def layers(angles, wires):
    for row in angles:
        for angle, wire in zip(row, wires, strict=True):
            qml.RX(angle, wire)
            qml.RZ(angle / 2, wire)
        for first, second in itertools.pairwise(wires):
            qml.CNOT([first, second])
        qml.Toffoli(wires[:3])


def both(circuit, wires=None, **options):
    """The circuit's results on our device and on PennyLane's own."""
    ours = qml.QNode(circuit, QClusterDevice(wires=wires, **options))
    return ours, qml.QNode(circuit, qml.device("default.qubit", wires=wires))


@pytest.mark.parametrize("wires", [[0, 1, 2, 3], ["c", "a", 7, "b"], [3, 2, 1, 0]])
def test_measurements_equal_default_qubits(wires):
    angles = np.random.default_rng(0).normal(size=(2, 4))

    def circuit():
        layers(angles, wires)
        return (
            qml.expval(qml.Z(wires[0]) @ qml.X(wires[2])),
            qml.var(qml.Y(wires[1])),
            qml.probs(wires=wires[1:3]),
            qml.expval(0.3 * qml.Z(wires[3]) + 0.7 * qml.X(wires[0])),
            qml.state(),
        )

    ours, theirs = both(circuit, wires)
    for a, b in zip(ours(), theirs(), strict=True):
        assert np.allclose(a, b, atol=1e-12)


def test_templates_are_decomposed_and_states_prepared():
    start = np.array([0.6, 0.0, 0.0, 0.8j, 0.0, 0.0, 0.0, 0.0])

    def circuit():
        qml.StatePrep(start, wires=range(3))
        qml.QFT(wires=range(3))
        qml.StronglyEntanglingLayers(np.full((2, 3, 3), 0.4), wires=range(3))
        qml.adjoint(qml.QFT)(wires=range(3))
        return qml.state()

    ours, theirs = both(circuit)
    assert np.allclose(ours(), theirs(), atol=1e-12)


def test_gradients_by_parameter_shift_equal_backprop():
    weights = qml.numpy.array(np.random.default_rng(1).normal(size=(1, 3)), requires_grad=True)

    def circuit(angles):
        for angle, wire in zip(angles[0], range(3), strict=True):
            qml.RY(angle, wire)
        qml.CNOT([0, 1])
        qml.CNOT([1, 2])
        return qml.expval(qml.Z(2))

    ours, theirs = both(circuit, 3)
    assert np.allclose(qml.grad(ours)(weights), qml.grad(theirs)(weights), atol=1e-9)


def test_samples_are_seeded_and_follow_the_probabilities():
    def circuit():
        qml.RX(1.1, 0)
        qml.CNOT([0, 1])
        return qml.probs(wires=[0, 1])

    def run(seed):
        return qml.set_shots(qml.QNode(circuit, QClusterDevice(wires=2, seed=seed)), 4000)()

    assert np.array_equal(run(3), run(3))
    exact = np.array([np.cos(0.55) ** 2, 0, 0, np.sin(0.55) ** 2])
    assert np.abs(run(4) - exact).max() < 0.04


def test_measurements_in_mid_circuit_are_deferred():
    def circuit():
        qml.Hadamard(0)
        found = qml.measure(0)
        qml.cond(found, qml.X)(1)
        return qml.probs(wires=1)

    ours, theirs = both(circuit)
    assert np.allclose(ours(), theirs(), atol=1e-12)


def test_batched_angles_give_a_batch():
    def circuit():
        qml.RX(np.array([0.1, 0.2, 0.3]), 0)
        return qml.expval(qml.Z(0))

    ours, _ = both(circuit, 1)
    assert np.allclose(ours(), np.cos([0.1, 0.2, 0.3]), atol=1e-12)


def test_too_many_wires_are_refused_with_the_bytes():
    def circuit():
        qml.Hadamard(29)
        return qml.state()

    ours, _ = both(circuit, 30)
    with pytest.raises(InputError, match=str(16 << 30)):
        ours()
