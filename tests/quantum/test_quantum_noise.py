"""Channels against definitions and PennyLane, densities, trajectories, mitigation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import InputError
from qcluster.quantum import IsingProblem, QAOASimulator, noise
from qcluster.quantum.noise.channels import Channel


def random_density(qubits, seed):
    generator = np.random.default_rng(seed)
    size = 2**qubits
    a = generator.normal(size=(size, size)) + 1j * generator.normal(size=(size, size))
    rho = a @ a.conj().T
    return rho / np.trace(rho)


def every_channel():
    return [
        noise.depolarizing(0.3),
        noise.amplitude_damping(0.4),
        noise.phase_damping(0.2),
        noise.thermal(3e-5, t1_s=5e-5, t2_s=7e-5, excited=0.1),
    ]


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(noise.CHANNELS)), st.floats(0, 1), st.integers(0, 2**31),
    st.integers(1, 3),
)  # fmt: skip
def test_channels_keep_trace_and_positivity(name, level, seed, qubits):
    channel = noise.channel(name, level)
    rho = random_density(qubits, seed)
    for qubit in range(qubits):
        rho = noise.apply_channel(rho, channel, [qubit])
    assert noise.check_density(rho, tolerance=1e-10) == qubits


def test_definitions():
    rho = random_density(1, 1)
    assert np.allclose(
        noise.apply_channel(rho, noise.depolarizing(0.3), [0]), 0.7 * rho + 0.3 * np.eye(2) / 2
    )
    damped = noise.apply_channel(rho, noise.amplitude_damping(0.4), [0])
    assert damped[1, 1] == pytest.approx(0.6 * rho[1, 1])
    assert damped[0, 1] == pytest.approx(math.sqrt(0.6) * rho[0, 1])
    dephased = noise.apply_channel(rho, noise.phase_damping(0.4), [0])
    assert dephased[1, 1] == pytest.approx(rho[1, 1])
    assert dephased[0, 1] == pytest.approx(math.sqrt(0.6) * rho[0, 1])
    two = random_density(2, 2)
    mixed = noise.apply_channel(two, noise.depolarizing(0.25, qubits=2), [0, 1])
    assert np.allclose(mixed, 0.75 * two + 0.25 * np.eye(4) / 4)


def test_thermal_relaxes_to_its_bath():
    t, t1, t2 = 2e-5, 5e-5, 8e-5
    channel = noise.thermal(t, t1_s=t1, t2_s=t2, temperature_k=0.05, frequency_hz=5e9)
    h_over_k = 6.62607015e-34 * 5e9 / (1.380649e-23 * 0.05)
    bath = 1 / (1 + math.exp(h_over_k))
    rho = random_density(1, 3)
    after = noise.apply_channel(rho, channel, [0])
    expected = bath + (rho[1, 1].real - bath) * math.exp(-t / t1)
    assert after[1, 1].real == pytest.approx(expected, abs=1e-13)
    assert after[0, 1] == pytest.approx(rho[0, 1] * math.exp(-t / t2), abs=1e-13)
    cold = noise.channel("thermal", 1.0)
    assert np.allclose(noise.apply_channel(rho, cold, [0]), np.diag([1, 0]))


def test_pennylane_agrees():
    import pennylane as qml

    rho = random_density(3, 4)
    cases = [
        (noise.depolarizing(0.3), lambda w: qml.DepolarizingChannel(0.75 * 0.3, wires=w)),
        (noise.amplitude_damping(0.4), lambda w: qml.AmplitudeDamping(0.4, wires=w)),
        (noise.phase_damping(0.2), lambda w: qml.PhaseDamping(0.2, wires=w)),
        (
            noise.thermal(3e-5, t1_s=5e-5, t2_s=7e-5, excited=0.1),
            lambda w: qml.ThermalRelaxationError(0.1, 5e-5, 7e-5, 3e-5, wires=w),
        ),
    ]
    for ours, theirs in cases:

        @qml.qnode(qml.device("default.mixed", wires=3))
        def circuit(theirs=theirs):
            qml.QubitDensityMatrix(rho, wires=range(3))
            theirs(1)
            return qml.density_matrix(range(3))

        assert np.abs(noise.apply_channel(rho, ours, [1]) - circuit()).max() < 1e-12


def test_unitary_on_some_qubits():
    rho = random_density(3, 5)
    generator = np.random.default_rng(6)
    u, _ = np.linalg.qr(generator.normal(size=(4, 4)) + 1j * generator.normal(size=(4, 4)))
    swap = np.eye(8).reshape(2, 2, 2, 8)  # [q2, q1, q0, column]
    order = np.moveaxis(swap, (0, 1, 2), (0, 1, 2)).reshape(8, 8)
    whole = order.T @ np.kron(np.eye(2), u) @ order  # qubits (0, 1), 0 least significant
    assert np.allclose(noise.apply_unitary(rho, u, [0, 1]), whole @ rho @ whole.conj().T)
    swapped = u.reshape(2, 2, 2, 2).transpose(1, 0, 3, 2).reshape(4, 4)
    assert np.allclose(
        noise.apply_unitary(rho, u, [0, 1]), noise.apply_unitary(rho, swapped, [1, 0])
    )


def problem(n, seed=0):
    generator = np.random.default_rng(seed)
    return IsingProblem(
        generator.normal(size=n), np.triu(generator.normal(size=(n, n)), 1), offset=0.5
    )


def test_no_noise_is_the_pure_circuit():
    item = problem(5)
    clean = QAOASimulator(item).expectation([0.2, 0.4], [-0.5, -0.2])
    for name in noise.CHANNELS:
        noisy = noise.NoisyQAOA(item, noise.channel(name, 0.0))
        assert noisy.expectation([0.2, 0.4], [-0.5, -0.2]) == pytest.approx(clean, abs=1e-11)


def test_full_depolarising_leaves_the_mean():
    noisy = noise.NoisyQAOA(problem(4), noise.depolarizing(1.0))
    assert noisy.expectation([0.3], [-0.4]) == pytest.approx(0.5)  # the offset: all else averages


def test_trajectories_average_to_the_density_matrix():
    item = problem(4)
    for channel in every_channel():
        noisy = noise.NoisyQAOA(item, channel)
        exact = noisy.expectation([0.2, 0.3], [-0.5, -0.2])
        mean, error = noisy.sampled_expectation([0.2, 0.3], [-0.5, -0.2], trajectories=600, seed=1)
        assert abs(mean - exact) < 4.5 * error


def test_extrapolation():
    scales = np.array([1.0, 2.0, 3.0])
    assert noise.extrapolate_to_zero(scales, 5 - 2 * scales + scales**2) == pytest.approx(5)
    assert noise.extrapolate_to_zero(scales, 5 - 2 * scales, degree=1) == pytest.approx(5)
    item = problem(4)
    angles = ([0.2], [-0.4])
    clean = QAOASimulator(item).expectation(*angles)
    noisy = [noise.NoisyQAOA(item, noise.depolarizing(0.02 * s)).expectation(*angles)
             for s in (1, 2, 3)]  # fmt: skip
    assert abs(noise.extrapolate_to_zero([1, 2, 3], noisy) - clean) < 0.05 * abs(noisy[0] - clean)


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 0.45), st.floats(0, 0.45), st.integers(1, 5), st.integers(0, 2**31))
def test_readout_correction_undoes_readout(e, f, n, seed):
    probability = np.random.default_rng(seed).dirichlet(np.ones(2**n))
    error = noise.ReadoutError(e, f)
    read = error.apply(probability)
    assert read.sum() == pytest.approx(1)
    assert np.allclose(error.correct(read), probability, atol=1e-9)
    noisy = np.random.default_rng(seed).multinomial(50, probability) / 50
    corrected = error.correct(noisy)
    assert corrected.min() >= 0
    assert corrected.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: noise.depolarizing(1.1),
        lambda: noise.depolarizing(float("nan")),
        lambda: noise.depolarizing(0.1, qubits=3),
        lambda: noise.amplitude_damping(-0.1),
        lambda: noise.channel("pink", 0.1),
        lambda: noise.thermal(1.0, t1_s=1.0, t2_s=2.5),
        lambda: noise.thermal(1.0, t1_s=0.0, t2_s=1.0),
        lambda: noise.thermal(-1.0, t1_s=1.0, t2_s=1.0),
        lambda: noise.thermal(1.0, t1_s=1.0, t2_s=1.0, temperature_k=1.0),
        lambda: Channel("half", np.array([np.eye(2) / 2], dtype=complex)),
        lambda: noise.check_density(np.eye(2)),
        lambda: noise.check_density(np.eye(3) / 3),
        lambda: noise.check_density(np.diag([1.5, -0.5])),
        lambda: noise.apply_channel(random_density(2, 0), noise.depolarizing(0.1), [0, 1]),
        lambda: noise.apply_channel(random_density(2, 0), noise.depolarizing(0.1), [2]),
        lambda: noise.NoisyQAOA(problem(3), noise.depolarizing(0.1, qubits=2)),
        lambda: noise.NoisyQAOA(problem(12), noise.depolarizing(0.1)).expectation([0.1], [0.1]),
        lambda: noise.NoisyQAOA(problem(3), noise.depolarizing(0.1)).expectation([0.1], []),
        lambda: noise.extrapolate_to_zero([1.0], [1.0]),
        lambda: noise.extrapolate_to_zero([1.0, 1.0], [1.0, 2.0]),
        lambda: noise.ReadoutError(0.5, 0.5),
        lambda: noise.ReadoutError(-0.1, 0.5),
        lambda: noise.ReadoutError(0.1, 0.1).apply([0.5, 0.3, 0.2]),
    ],
)
def test_refusals(call):
    with pytest.raises(InputError):
        call()
