"""The compiled engines against the NumPy reference and PennyLane's default.qubit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from qcluster.quantum import IsingProblem, QAOASimulator
from qcluster.quantum.engine import reference
from qcluster.quantum.engine.levels import LevelEngine
from qcluster.quantum.engine.mixing import Mixing
from qcluster.quantum.engine.phase._kernels import MAX_PHASE, sincos
from qcluster.quantum.engine.qubits import QubitEngine
from qcluster.quantum.engine.workspace import Workspaces


def problem(n, seed, groups=None, *, fields=True):
    generator = np.random.default_rng(seed)
    h = generator.normal(size=n) * fields
    return IsingProblem(h, np.triu(generator.normal(size=(n, n)), 1), 0.5, groups)


def angles(layers, seed):
    return np.random.default_rng(seed).normal(size=(2, layers))


def check_against_reference(item, mixer, gammas, betas, kind):
    simulator = QAOASimulator(item, mixer)
    assert isinstance(simulator._engine, kind)
    diagonal, space = simulator.diagonal, simulator.space
    plain = reference.ReferenceEngine(Mixing(space, mixer))
    each = np.repeat(betas[:, None], plain.mixing.terms, axis=1)
    phases = [diagonal] * len(gammas)
    psi = plain.state(phases, gammas, each)
    assert np.abs(simulator.state(gammas, betas) - psi).max() < 1e-12
    value, weights, terms = plain.value_and_weights(phases, gammas, each, diagonal)
    found, by_gamma, by_beta = simulator.value_and_grad(gammas, betas)
    slack = 1e-12 * max(1.0, item.scale)
    assert abs(found - item.offset - value) < slack
    assert abs(simulator.expectation(gammas, betas) - item.offset - value) < slack
    scale = max(1.0, item.scale)
    assert np.abs(by_gamma - [w @ diagonal for w in weights]).max() < slack * scale
    assert np.abs(by_beta - [term.sum() for term in terms]).max() < slack * scale


@pytest.mark.parametrize("fields", [True, False])
@pytest.mark.parametrize("n", range(1, 17))
def test_qubit_engine_at_every_size(n, fields):
    check_against_reference(problem(n, n, fields=fields), "x", *angles(3, n), QubitEngine)


SHAPES = [
    [[0, 1, 2]],
    [[0, 1], [2, 3], [4, 5]],
    [[0, 1, 2, 3, 4], [5, 6, 7, 8]],
    [[3 * g, 3 * g + 1, 3 * g + 2] for g in range(6)],
    [[7 * g + k for k in range(7)] for g in range(5)],
]


@pytest.mark.parametrize("mixer", ["xy_complete", "xy_ring", "grover"])
@pytest.mark.parametrize("groups", SHAPES)
@pytest.mark.parametrize("extra", [0, 2])
def test_level_engine_on_many_shapes(groups, extra, mixer):
    n = 1 + max(max(group) for group in groups) + extra
    item = problem(n, n, groups)
    all_two = all(k == 2 for k in QAOASimulator(item, mixer).space.shape)
    kind = QubitEngine if all_two and mixer != "grover" else LevelEngine
    check_against_reference(item, mixer, *angles(2, n), kind)


def pennylane_value_and_grad(item, mixer, gammas, betas):
    """The circuit gate by gate; PennyLane's wire 0 is our highest qubit."""
    import pennylane as qml
    from pennylane import numpy as pnp

    n = item.n
    wire = [n - 1 - i for i in range(n)]
    terms = [qml.Z(wire[i]) @ qml.Z(wire[j]) for i, j in item.edges]
    cost = qml.Hamiltonian(
        [*item.weights, *item.h, item.offset],
        [*terms, *(qml.Z(wire[i]) for i in range(n)), qml.Identity(0)],
    )
    start = np.zeros(2**n, dtype=complex)
    feasible = [
        x for x in range(2**n)
        if mixer == "x" or item.feasible(1 - 2 * ((x >> np.arange(n)) & 1))
    ]  # fmt: skip
    start[feasible] = len(feasible) ** -0.5
    if mixer != "x":
        space = QAOASimulator(item, mixer).space
        bits = (space.spins(np.arange(space.size)) < 0) << np.arange(n)
        place = bits.sum(axis=1)
        generator = np.zeros((2**n, 2**n))
        for column in range(space.size):
            unit = np.eye(space.size)[column].astype(complex)
            image = sum(reference.mixer_terms(unit, Mixing(space, mixer)))
            generator[place, place[column]] = image.real
        vectors = np.linalg.eigh(generator)

    @qml.qnode(qml.device("default.qubit", wires=n), diff_method="backprop")
    def circuit(g, b):
        qml.StatePrep(start, wires=range(n))
        for layer in range(len(gammas)):
            for (i, j), weight in zip(item.edges, item.weights, strict=True):
                qml.IsingZZ(2 * g[layer] * weight, wires=[wire[i], wire[j]])
            for i in range(n):
                qml.RZ(2 * g[layer] * item.h[i], wires=wire[i])
            if mixer == "x":
                for i in range(n):
                    qml.RX(2 * b[layer], wires=wire[i])
            else:
                values, basis = vectors
                turn = pnp.exp(-1j * b[layer] * values)
                qml.QubitUnitary(
                    pnp.dot(basis * turn, basis.T), wires=range(n), unitary_check=False
                )
        return qml.expval(cost)

    g, b = (pnp.array(a, requires_grad=True) for a in (gammas, betas))
    return float(circuit(g, b)), *qml.grad(circuit)(g, b)


@pytest.mark.parametrize(
    ("mixer", "groups"),
    [
        ("x", None),
        ("xy_complete", [[0, 1, 2], [3, 4]]),
        ("xy_ring", [[1, 0, 3, 2]]),
        ("grover", [[0, 1, 2], [3, 4, 5]]),
        ("grover", None),
    ],
)
@pytest.mark.parametrize("layers", [1, 3])
def test_pennylane_agrees(mixer, groups, layers):
    item = problem(6, layers, groups)
    gammas, betas = angles(layers, 7)
    value, by_gamma, by_beta = pennylane_value_and_grad(item, mixer, gammas, betas)
    found = QAOASimulator(item, mixer).value_and_grad(gammas, betas)
    slack = 1e-12 * max(1.0, item.scale)
    assert abs(found[0] - value) < slack
    assert np.abs(found[1] - by_gamma).max() < slack * item.scale
    assert np.abs(found[2] - by_beta).max() < slack * item.scale


def test_feasible_mixers_equal_full_exponentials():
    # An independent check of the mixer on 2^n states is in test_quantum_simulator; here: k = 5.
    ring = np.roll(np.eye(5), 1, axis=0)
    ring = ring + ring.T
    assert np.allclose(reference.ring_matrix(5, 0.9), expm(-0.9j * ring), atol=1e-14)


@settings(max_examples=50, deadline=None)
@given(st.floats(-MAX_PHASE, MAX_PHASE))
def test_fast_sine_is_a_sine(x):
    s, c = sincos(x)
    assert abs(s - np.sin(x)) < 4e-16
    assert abs(c - np.cos(x)) < 4e-16


def test_huge_phases_go_to_the_reference():
    item = problem(6, 0)
    big = IsingProblem(item.h * 1e12, edges=item.edges, weights=item.weights * 1e12)
    simulator = QAOASimulator(big)
    gammas, betas = angles(2, 0)
    assert not simulator._engine.takes(gammas)
    value, by_gamma, _ = simulator.value_and_grad(gammas, betas)
    assert np.isfinite(value)
    assert np.isfinite(by_gamma).all()
    plain = QAOASimulator(item).expectation(gammas, betas)
    assert simulator.expectation(gammas / 1e12, betas) / 1e12 == pytest.approx(plain, abs=1)


def test_forty_eight_qubits_in_groups():
    groups = [[6 * g + k for k in range(6)] for g in range(6)]
    item = problem(36, 5, groups)
    simulator = QAOASimulator(item, "xy_complete")
    samples = simulator.sample([0.02, 0.05], [-0.3, -0.1], shots=500, seed=1)
    assert simulator.space.size == 6**6
    assert all(item.feasible(z) for z in samples)
    assert item.energy(samples).mean() == pytest.approx(
        simulator.expectation([0.02, 0.05], [-0.3, -0.1]), abs=0.1 * item.scale
    )


def test_workspaces_are_reused_and_never_shared():
    pool = Workspaces(16, 2)
    with pool.taken() as first, pool.taken() as second:
        assert first[0] is not second[0]
        first[0][:] = 1
        second[0][:] = 2
        assert (first[0] == 1).all()
    with pool.taken() as again:
        assert any(again[0] is arrays[0] for arrays in (first, second))
