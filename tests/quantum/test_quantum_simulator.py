"""QAOA simulation against shared values, matrix exponentials and finite differences."""

from __future__ import annotations

import json
import subprocess
import sys

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


def grouped_item():
    return problem(7, 3, [[0, 1, 2], [5, 6]])


@pytest.mark.parametrize("engine", ["numba", "numpy"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_an_angle_for_each_term_of_every_mixer(mixer, engine):
    simulator = QAOASimulator(grouped_item(), mixer, engine=engine)
    terms = {"x": 7, "grover": 1}.get(mixer, 4)
    assert simulator.mixing.terms == terms
    gammas, betas = angles(2, 7)[0], angles(2, terms, seed=2)[1]
    value, by_gamma, by_beta = simulator.value_and_grad(gammas, betas)
    assert value == pytest.approx(simulator.expectation(gammas, betas), abs=1e-12)
    step = 1e-6
    for table, slopes, which in ((gammas, by_gamma, 0), (betas, by_beta, 1)):
        for index in np.ndindex(table.shape):
            ends = []
            for sign in (1, -1):
                moved = [gammas.copy(), betas.copy()]
                moved[which][index] += sign * step
                ends.append(simulator.expectation(*moved))
            slope = (ends[0] - ends[1]) / (2 * step)
            assert slopes[index] == pytest.approx(slope, abs=1e-5)


@pytest.mark.parametrize("mixer", ["xy_ring", "xy_complete", "grover"])
def test_equal_angles_for_all_terms_are_one_angle(mixer):
    simulator = QAOASimulator(grouped_item(), mixer)
    gammas, betas = angles(3)
    plain = simulator.value_and_grad(gammas, betas)
    each = simulator.value_and_grad(
        np.repeat(gammas[:, None], 7, axis=1),
        np.repeat(betas[:, None], simulator.mixing.terms, axis=1),
    )
    assert each[0] == pytest.approx(plain[0], abs=1e-12)
    assert np.allclose(each[1].sum(axis=1), plain[1], atol=1e-11)
    assert np.allclose(each[2].sum(axis=1), plain[2], atol=1e-11)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("fields", [True, False])
def test_numpy_gives_what_numba_gives(mixer, warm, fields):
    if warm and mixer == "xy_ring":
        pytest.skip("a ring takes no warm start")
    item = grouped_item()
    if not fields:
        item = IsingProblem(np.zeros(7), edges=item.edges, weights=item.weights)
    start = np.random.default_rng(5).uniform(-1, 1, 7) if warm else None
    made = [QAOASimulator(item, mixer, warm_start=start, engine=e) for e in ("numba", "numpy")]
    assert [simulator.engine for simulator in made] == ["numba", "numpy"]
    gammas, betas = angles(3)
    slack = 1e-12 * max(1.0, item.scale)
    for values in zip(*(s.value_and_grad(gammas, betas) for s in made), strict=True):
        assert np.abs(values[0] - values[1]).max() < slack * item.scale
    states = [s.state(gammas, betas) for s in made]
    assert np.abs(states[0] - states[1]).max() < 1e-12
    shots = [s.sample(gammas, betas, shots=200, seed=1) for s in made]
    assert np.array_equal(*shots)


def test_without_numba_numpy_takes_over():
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "from qcluster.quantum.simulator import QAOASimulator\n"
        "from qcluster.quantum.problem import IsingProblem\n"
        "s = QAOASimulator(IsingProblem([1.0, -1.0], {(0, 1): 0.5}))\n"
        "print(s.engine, repr(s.expectation([0.3], [-0.4])))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    engine, value = done.stdout.split()
    item = IsingProblem([1.0, -1.0], {(0, 1): 0.5})
    assert engine == "numpy"
    assert float(value) == pytest.approx(QAOASimulator(item).expectation([0.3], [-0.4]), abs=1e-14)


def warm_operators(item, spins, mixer):
    """Start and mixer of a warm start on all 2^n states, built from its definition."""
    start = np.ones(1)
    for i in range(item.n):
        c = (1 - spins[i]) / 2
        start = np.kron([np.sqrt(1 - c), np.sqrt(c)], start)
    if mixer == "grover":
        return start, np.outer(start, start)
    total = np.zeros((2**item.n, 2**item.n), dtype=complex)
    for i in range(item.n):
        c = (1 - spins[i]) / 2
        own = (1 - 2 * c) * np.diag([1, -1]) + 2 * np.sqrt(c * (1 - c)) * X
        total += on_qubits(item.n, {i: own})
    return start, total


@pytest.mark.parametrize("mixer", ["x", "xy_complete", "grover"])
def test_warm_start_is_eggers_circuit(mixer):
    item = problem(4)
    spins = np.array([0.5, -1.0, 0.0, 0.9])
    simulator = QAOASimulator(item, mixer, warm_start=spins)
    gammas, betas = angles(2)
    psi, operator = warm_operators(item, spins, mixer)
    bits = (np.arange(16)[:, None] >> np.arange(4)) & 1
    energy = item.energy(1 - 2 * bits) - item.offset
    start = psi
    assert np.allclose((start**2) @ (1 - 2 * bits), spins)
    for gamma, beta in zip(gammas, betas, strict=True):
        psi = expm(-1j * beta * operator) @ (np.exp(-1j * gamma * energy) * psi)
    assert np.abs(simulator.state(gammas, betas) - psi).max() < 1e-12
    assert np.allclose(operator @ start, start * (1 if mixer == "grover" else 4))


def test_warm_start_of_a_group_stays_feasible_and_has_its_shares():
    item = problem(5, groups=[[0, 1, 2]])
    spins = np.array([0.6, -0.8, -0.8, 0.5, 0.0])
    simulator = QAOASimulator(item, "xy_complete", warm_start=spins)
    start = simulator.probabilities([0.0], [0.0])
    assert start @ simulator.space.spins(np.arange(12)) == pytest.approx(spins)
    # Nothing to mix away: the start is an eigenstate of the mixer.
    assert simulator.probabilities([0.0], [1.3]) == pytest.approx(start)
    ring = {"mixer": "xy_ring", "warm_start": spins}
    with pytest.raises(InputError, match="warm_start"):
        QAOASimulator(item, **ring)
    for wrong in (spins[:3], 2 * spins, [np.nan] * 5, "x", [-1, -1, -1, 0, 0]):
        with pytest.raises(InputError, match="warm_start"):
            QAOASimulator(item, "xy_complete", warm_start=wrong)


def test_uniform_warm_start_is_none():
    item = grouped_item()
    flat = np.array([-1 / 3] * 3 + [0.0] * 4)
    gammas, betas = angles(2)
    for mixer in ("xy_complete", "grover"):
        warm = QAOASimulator(item, mixer, warm_start=flat).value_and_grad(gammas, betas)
        cold = QAOASimulator(item, mixer).value_and_grad(gammas, betas)
        for a, b in zip(warm, cold, strict=True):
            assert np.allclose(a, b, atol=1e-11)


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("fields", [True, False])
def test_gradient_of_cvar(mixer, fields):
    item = grouped_item()
    if not fields:
        item = IsingProblem(np.zeros(7), edges=item.edges, weights=item.weights)
    simulator = QAOASimulator(item, mixer)
    gammas, betas = angles(2)
    for alpha in (0.1, 0.5, 1.0):
        value, by_gamma, by_beta = simulator.cvar_and_grad(gammas, betas, alpha=alpha)
        assert value == pytest.approx(simulator.cvar(gammas, betas, alpha=alpha), abs=1e-11)
        step = 1e-6
        for layer in range(2):
            shift = np.eye(2)[layer] * step
            up, down = (simulator.cvar(gammas + s * shift, betas, alpha=alpha) for s in (1, -1))
            assert by_gamma[layer] == pytest.approx((up - down) / (2 * step), abs=1e-4)
            up, down = (simulator.cvar(gammas, betas + s * shift, alpha=alpha) for s in (1, -1))
            assert by_beta[layer] == pytest.approx((up - down) / (2 * step), abs=1e-4)
    whole = simulator.value_and_grad(gammas, betas)
    for a, b in zip(simulator.cvar_and_grad(gammas, betas, alpha=1.0), whole, strict=True):
        assert np.allclose(a, b, atol=1e-10)


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
        assert fixed.expectation([], []) == pytest.approx(0 if mixer == "x" else 3, abs=1e-12)
        flat = QAOASimulator(IsingProblem(np.zeros(3)), mixer)
        value, by_gamma, by_beta = flat.value_and_grad([0.3], [0.4])
        np.testing.assert_allclose([value, *by_gamma, *by_beta], 0.0, atol=1e-12)


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
    with pytest.raises(InputError, match="numba, numpy"):
        QAOASimulator(problem(3), engine="fortran")
    with pytest.raises(InputError, match=str(72 * 2**40)):
        QAOASimulator(IsingProblem(np.zeros(40)))
    simulator = QAOASimulator(problem(3, groups=[[0, 1]]), "xy_ring")
    with pytest.raises(InputError, match=r"wants \(2, 2\)"):
        simulator.value_and_grad(np.zeros((2, 3)), np.zeros((2, 3)), multi_angle=True)
    with pytest.raises(InputError):
        simulator.state(np.zeros((2, 1)), np.zeros((2, 1)))
    with pytest.raises(InputError):
        simulator.sample([0.1], [0.1], shots=-1, seed=0)
    with pytest.raises(InputError):
        simulator.cvar([0.1], [0.1], alpha=0)
