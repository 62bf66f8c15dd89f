"""QAOA simulation against shared values, matrix exponentials and finite differences."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from qcluster.errors import InputError
from qcluster.quantum import IsingProblem, QAOASimulator
from qcluster.quantum.engine.reference import MIXERS, ring_matrix
from qcluster.quantum.formats import read_problems
from qcluster.quantum.space import Space

X = np.array([[0, 1], [1, 0]], dtype=complex)
Y = np.array([[0, -1j], [1j, 0]])


def problem(n, seed=0, groups=None):
    generator = np.random.default_rng(seed)
    return IsingProblem(
        generator.normal(size=n), np.triu(generator.normal(size=(n, n)), 1), 0.5, groups
    )


def angles(*shape, seed=1):
    generator = np.random.default_rng(seed)
    return generator.normal(size=shape), generator.normal(size=shape)


def on_qubits(n, operators):
    """Kronecker product with the operator of qubit 0 last, so qubit 0 is least significant."""
    result = np.eye(1)
    for qubit in reversed(range(n)):
        result = np.kron(result, operators.get(qubit, np.eye(2)))
    return result


def full_mixer(item, mixer):
    """The mixer's Hamiltonian on all 2^n states, built from Pauli matrices."""
    n = item.n
    grouped = {i for group in item.groups for i in group}
    total = sum(on_qubits(n, {i: X}) for i in range(n) if i not in grouped or mixer == "x")
    total = total + np.zeros((2**n, 2**n))
    if mixer == "x":
        return total
    for group in item.groups:
        k = len(group)
        pairs = [(a, b) for a in range(k) for b in range(a)]
        if mixer == "xy_ring":
            pairs = {tuple(sorted((a, (a + 1) % k))) for a in range(k)} if k > 1 else set()
        for a, b in pairs:
            i, j = group[a], group[b]
            total = total + (on_qubits(n, {i: X, j: X}) + on_qubits(n, {i: Y, j: Y})) / 2
    return total


def full_state(item, mixer, gammas, betas):
    """The circuit on all 2^n states by matrix exponentials, from the uniform feasible state."""
    bits = (np.arange(2**item.n)[:, None] >> np.arange(item.n)) & 1
    z = 1 - 2 * bits
    energy = item.energy(z) - item.offset
    feasible = np.array([mixer == "x" or item.feasible(row) for row in z])
    start = feasible / np.sqrt(feasible.sum())
    operator = np.outer(start, start) if mixer == "grover" else full_mixer(item, mixer)
    psi = start.astype(complex)
    for gamma, beta in zip(gammas, betas, strict=True):
        psi = expm(-1j * beta * operator) @ (np.exp(-1j * gamma * energy) * psi)
    return psi, z


def test_shared_values_and_gradients(data_dir):
    path = data_dir / "quantum" / "ising_small.json"
    for record, item in zip(json.loads(path.read_text()), read_problems(path), strict=True):
        wanted = record["qaoa"]
        value, by_gamma, by_beta = QAOASimulator(item).value_and_grad(
            wanted["gamma"], wanted["beta"]
        )
        assert abs(value - wanted["expectation"]) < 1e-9
        assert np.abs(by_gamma - wanted["dE_dgamma"]).max() < 1e-9
        assert np.abs(by_beta - wanted["dE_dbeta"]).max() < 1e-9


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("groups", [None, [[0, 1, 2]], [[5, 1, 3, 0], [2, 4]], [[0], [1, 2, 3]]])
def test_every_mixer_equals_the_full_circuit(mixer, groups):
    item = problem(6, groups=groups)
    simulator = QAOASimulator(item, mixer)
    gammas, betas = angles(3)
    psi, z = full_state(item, mixer, gammas, betas)
    place = ((simulator.space.spins(np.arange(simulator.space.size)) < 0) << np.arange(6)).sum(1)
    assert np.abs(simulator.state(gammas, betas) - psi[place]).max() < 1e-12
    assert abs(np.abs(psi[place] ** 2).sum() - 1) < 1e-12  # nothing outside the feasible space
    expected = np.abs(psi) ** 2 @ item.energy(z)
    assert abs(simulator.expectation(gammas, betas) - expected) < 1e-12 * max(1, item.scale)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 7), st.integers(1, 4), st.sampled_from(MIXERS), st.booleans(),
    st.integers(0, 2**31),
)  # fmt: skip
def test_gradient_is_the_slope_of_the_value(n, layers, mixer, grouped, seed):
    item = problem(n, seed, [[0, 1, 2]] if grouped and n > 2 else None)
    simulator = QAOASimulator(item, mixer)
    gammas, betas = angles(layers, seed=seed)
    value, by_gamma, by_beta = simulator.value_and_grad(gammas, betas)
    assert value == pytest.approx(simulator.expectation(gammas, betas), abs=1e-11 * item.scale)
    step = 1e-5
    for layer in range(layers):
        shift = np.eye(layers)[layer] * step
        for slope, pair in (
            (by_gamma[layer], [(gammas + s * shift, betas) for s in (1, -1)]),
            (by_beta[layer], [(gammas, betas + s * shift) for s in (1, -1)]),
        ):
            up, down = (simulator.expectation(*pairs) for pairs in pair)
            assert slope == pytest.approx((up - down) / (2 * step), abs=2e-6 * item.scale**3 + 1e-6)


def test_multi_angle_with_equal_angles_is_plain():
    item = problem(5)
    simulator = QAOASimulator(item)
    gammas, betas = angles(2)
    spread = [np.repeat(a[:, None], 5, axis=1) for a in (gammas, betas)]
    value, by_gamma, by_beta = simulator.value_and_grad(*spread)
    plain, plain_gamma, plain_beta = simulator.value_and_grad(gammas, betas)
    assert value == pytest.approx(plain)
    assert np.allclose(by_gamma.sum(axis=1), plain_gamma)
    assert np.allclose(by_beta.sum(axis=1), plain_beta)


def test_multi_angle_gradient_by_differences():
    item = problem(4)
    simulator = QAOASimulator(item)
    gammas, betas = angles(2, 4)
    _, by_gamma, by_beta = simulator.value_and_grad(gammas, betas)
    step = 1e-6
    for index in np.ndindex(2, 4):
        shift = np.zeros((2, 4))
        shift[index] = step
        ups = [simulator.expectation(gammas + s * shift, betas) for s in (1, -1)]
        assert by_gamma[index] == pytest.approx((ups[0] - ups[1]) / (2 * step), abs=1e-6)
        ups = [simulator.expectation(gammas, betas + s * shift) for s in (1, -1)]
        assert by_beta[index] == pytest.approx((ups[0] - ups[1]) / (2 * step), abs=1e-6)
    batch = simulator.value_and_grad(np.stack([gammas] * 2), np.stack([betas] * 2))
    assert batch[0].shape == (2,)
    assert np.array_equal(batch[1][1], by_gamma)


@pytest.mark.parametrize("mixer", MIXERS)
def test_batch_is_each_alone(mixer):
    simulator = QAOASimulator(problem(6, groups=[[0, 1, 2]]), mixer)
    gammas, betas = angles(4, 2)
    values, by_gamma, by_beta = simulator.value_and_grad(gammas, betas)
    assert values.shape == (4,)
    assert by_gamma.shape == by_beta.shape == (4, 2)
    for row in range(4):
        alone = simulator.value_and_grad(gammas[row], betas[row])
        assert values[row] == pytest.approx(alone[0])
        assert np.allclose(by_gamma[row], alone[1])
        assert np.allclose(by_beta[row], alone[2])
    assert np.allclose(simulator.expectation(gammas, betas), values)


def test_square_angles_can_be_called_a_batch():
    simulator = QAOASimulator(problem(3))
    gammas, betas = angles(2, 3)
    assert np.ndim(simulator.expectation(gammas, betas)) == 0
    assert simulator.expectation(gammas, betas, multi_angle=False).shape == (2,)


def test_samples_follow_the_probabilities():
    item = problem(5, groups=[[0, 1, 2]])
    simulator = QAOASimulator(item, "xy_complete")
    gammas, betas = angles(2)
    probability = simulator.probabilities(gammas, betas)
    assert probability.sum() == pytest.approx(1, abs=1e-12)
    samples = simulator.sample(gammas, betas, shots=20_000, seed=3)
    assert all(item.feasible(z) for z in samples)
    counts = np.bincount([simulator.space.index(z) for z in samples], minlength=len(probability))
    error = np.sqrt(probability * (1 - probability) / 20_000)
    assert (np.abs(counts / 20_000 - probability) <= 5 * error + 1e-9).all()
    again = simulator.sample(gammas, betas, shots=20_000, seed=3)
    assert np.array_equal(samples, again)
    assert simulator.sample(gammas, betas, shots=0, seed=0).shape == (0, 5)


def test_cvar_between_minimum_and_mean():
    simulator = QAOASimulator(problem(6))
    gammas, betas = angles(2)
    mean = simulator.expectation(gammas, betas)
    tail = [simulator.cvar(gammas, betas, alpha=a) for a in (1e-9, 0.1, 0.5, 1.0)]
    assert tail == sorted(tail)
    assert tail[0] == pytest.approx(simulator.diagonal.min() + 0.5)
    assert tail[-1] == pytest.approx(mean)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.booleans(), st.integers(0, 2**31))
def test_diagonal_is_the_energy_of_the_spins(n, grouped, seed):
    item = problem(n, seed, [[n - 1, 0]] if grouped and n > 1 else None)
    space = Space.of(item)
    every = np.arange(space.size)
    z = space.spins(every)
    energies = space.energies(item.h, item.edges, item.weights, item.offset)
    assert np.allclose(energies, item.energy(z), atol=1e-12 * item.scale)
    assert [space.index(row) for row in z] == every.tolist()
    assert all(item.feasible(row) for row in z)


def test_problems_without_choice():
    for mixer in MIXERS:
        empty = QAOASimulator(IsingProblem([], offset=2.0), mixer)
        assert empty.expectation([0.1], [0.2]) == 2
        fixed = QAOASimulator(IsingProblem([3.0], groups=[[0]]), mixer)
        assert fixed.expectation([], []) == (0 if mixer == "x" else 3)
        flat = QAOASimulator(IsingProblem(np.zeros(3)), mixer)
        value, by_gamma, by_beta = flat.value_and_grad([0.3], [0.4])
        assert (value, by_gamma.tolist(), by_beta.tolist()) == (0, [0], [0])


def test_ring_of_three_is_complete_and_unitary():
    assert np.allclose(ring_matrix(3, 0.7), expm(-0.7j * (np.ones((3, 3)) - np.eye(3))))
    assert np.allclose(ring_matrix(2, 0.7), expm(-0.7j * X))
    assert np.allclose(ring_matrix(1, 0.7), 1)
    five = ring_matrix(5, 1.3)
    assert np.allclose(five @ five.conj().T, np.eye(5))


@pytest.mark.parametrize(
    ("gammas", "betas", "field"),
    [
        ([0.1, 0.2], [0.1], "betas"),
        (0.1, 0.1, "gammas"),
        ([np.nan], [0.1], "gammas"),
        ([0.1], [np.inf], "betas"),
        (["a"], [0.1], "gammas"),
        (np.zeros((2, 2, 2)), np.zeros((2, 2, 2)), "gammas"),
    ],
)
def test_bad_angles(gammas, betas, field):
    with pytest.raises(InputError) as caught:
        QAOASimulator(problem(3)).value_and_grad(gammas, betas)
    assert caught.value.field == field


def test_refusals():
    with pytest.raises(InputError, match="xy_ring"):
        QAOASimulator(problem(3), "swap")
    with pytest.raises(InputError, match=str(72 * 2**40)):
        QAOASimulator(IsingProblem(np.zeros(40)))
    simulator = QAOASimulator(problem(3, groups=[[0, 1]]), "xy_ring")
    with pytest.raises(InputError, match="mixer x"):
        simulator.value_and_grad(np.zeros((2, 3)), np.zeros((2, 3)), multi_angle=True)
    with pytest.raises(InputError):
        simulator.state(np.zeros((2, 1)), np.zeros((2, 1)))
    with pytest.raises(InputError):
        simulator.sample([0.1], [0.1], shots=-1, seed=0)
    with pytest.raises(InputError):
        simulator.cvar([0.1], [0.1], alpha=0)
