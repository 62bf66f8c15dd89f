"""Simulated and real quantum backends, against density matrices, closed forms and dense algebra."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qcluster.deadline import Deadline
from qcluster.errors import InputError
from qcluster.q_attention import attention
from qcluster.qtransformers import (
    MatrixProductStateSimulator,
    QuantumAttentionSimulator,
    QuantumMultiheadAttention,
)
from qcluster.q_attention.measured import measured_rows, state_preparation
from qcluster.qtransformers.noisy import richardson
from qcluster.quantum.backends.circuit import final_state
from qcluster.quantum.noise import apply_channel, channel, thermal

MODELS = ("depolarizing", "amplitude_damping", "phase_damping", "thermal")


def qkv(n=8, nq=3, d=4):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(s, generator=generator, dtype=torch.float64)
        for s in ((2, nq, d), (2, n, d), (2, n, d))
    ]


def density(p, model, level, **options):
    """Populations of the whole density matrix after the channel, renormalised over the keys."""
    n = len(p)
    qubits = max(1, (n - 1).bit_length())
    amplitudes = np.zeros(2**qubits)
    amplitudes[:n] = np.sqrt(p)
    rho = np.outer(amplitudes, amplitudes).astype(complex)
    if model == "depolarizing":
        return (1 - level) * p + level / n
    one = channel(model, level)
    if options:
        one = thermal(-np.log1p(-level), t1_s=1.0, t2_s=1.0, **options)
    for qubit in range(qubits):
        rho = apply_channel(rho, one, [qubit])
    found = np.diagonal(rho).real[:n]
    return found / found.sum()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("n", [1, 5, 8])
@pytest.mark.parametrize("level", [0.0, 0.07, 0.6, 1.0])
def test_exact_populations_are_the_channels(model, n, level) -> None:
    q, k, v = qkv(n)
    out, weights = QuantumAttentionSimulator(model).simulate_attention(q, k, v, None, level)
    exact = (q @ k.transpose(1, 2) / 2).softmax(-1)
    expected = np.stack([[density(p, model, level) for p in head] for head in exact.numpy()])
    np.testing.assert_allclose(weights.numpy(), expected, atol=1e-12)
    torch.testing.assert_close(out, weights @ v)


def test_phase_damping_changes_nothing_and_damping_moves_mass_to_the_first_key() -> None:
    q, k, v = qkv()
    exact = (q @ k.transpose(1, 2) / 2).softmax(-1)
    _, phase = QuantumAttentionSimulator("phase_damping").simulate_attention(q, k, v, None, 0.8)
    torch.testing.assert_close(phase, exact)
    _, damped = QuantumAttentionSimulator("amplitude_damping").simulate_attention(q, k, v, None, 1)
    assert float(damped[..., 0].min()) == pytest.approx(1)


def test_a_warm_bath_excites() -> None:
    q, k, v = qkv()
    bath = {"temperature_k": 0.3, "frequency_hz": 5e9}
    simulator = QuantumAttentionSimulator("thermal", temperature=0.3, frequency_hz=5e9)
    _, weights = simulator.simulate_attention(q, k, v, None, 0.4)
    exact = (q @ k.transpose(1, 2) / 2).softmax(-1)[0, 0].numpy()
    expected = density(exact, "thermal", 0.4, **bath)
    np.testing.assert_allclose(weights[0, 0].numpy(), expected, atol=1e-12)
    _, hot = simulator.simulate_attention(q, k, v, None, 1.0)
    boltzmann = np.exp(-6.62607015e-34 * 5e9 / (1.380649e-23 * 0.3))
    assert float(hot[0, 0, -1] / hot[0, 0, 0]) == pytest.approx(boltzmann**3)


@pytest.mark.parametrize("model", MODELS)
def test_the_seeds_call(model) -> None:
    quantum_sim = QuantumAttentionSimulator(noise_model=model)
    Q, K, V = (x.numpy().astype(np.float32) for x in qkv(64, nq=9))
    output, weights = quantum_sim.simulate_attention(Q, K, V, num_samples=32, noise_level=0.01)
    assert output.shape == (2, 9, 4)
    assert weights.shape == (2, 9, 64)
    assert output.dtype == np.float32
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(weights * 32, np.round(weights * 32), atol=1e-3)


def test_draws_have_the_right_mean_and_follow_their_seed() -> None:
    q, k, v = qkv()
    simulator = QuantumAttentionSimulator()
    out, _ = simulator.simulate_attention(q, k, v, 40_000, 0.2, generator=1)
    exact, _ = simulator.simulate_attention(q, k, v, None, 0.2)
    assert float((out - exact).abs().max()) < 0.04
    again, _ = simulator.simulate_attention(q, k, v, 40_000, 0.2, generator=1)
    assert torch.equal(out, again)


def test_error_grows_with_the_level() -> None:
    q, k, v = qkv()
    expected = attention(q, k, v, budget=1.0).out
    for model in ("depolarizing", "amplitude_damping", "thermal"):
        errors = [
            (QuantumAttentionSimulator(model).simulate_attention(q, k, v, None, level)[0]
             - expected).norm().item()
            for level in (0.0, 0.05, 0.2, 0.5)
        ]  # fmt: skip
        assert errors == sorted(errors)
        assert errors[0] < 1e-12


@pytest.mark.parametrize("model", ["depolarizing", "amplitude_damping", "thermal"])
def test_mitigation_takes_bias_and_gives_variance(model) -> None:
    q, k, v = qkv()
    expected = attention(q, k, v, budget=1.0).out
    plain = QuantumAttentionSimulator(model)
    mitigated = QuantumAttentionSimulator(model, error_mitigation=True)
    level = 0.04

    def bias(simulator):
        return (simulator.simulate_attention(q, k, v, None, level)[0] - expected).norm().item()

    assert bias(mitigated) < 0.1 * bias(plain)

    def spread(simulator):
        return torch.stack([
            simulator.simulate_attention(q, k, v, 50, level, generator=s)[0] for s in range(40)
        ]).var(0).mean().item()  # fmt: skip

    assert spread(mitigated) > 5 * spread(plain)


@pytest.mark.parametrize(("model", "level"), [("phase_damping", 0.1), ("thermal", 0.0),
                                              ("depolarizing", 0.5)])  # fmt: skip
def test_mitigation_that_does_nothing_says_so(model, level) -> None:
    q, k, v = qkv()
    simulator = QuantumAttentionSimulator(model, error_mitigation=True)
    plain = QuantumAttentionSimulator(model)
    torch.testing.assert_close(
        simulator.simulate_attention(q, k, v, None, level)[0],
        plain.simulate_attention(q, k, v, None, level)[0],
    )
    assert "error_mitigation" in simulator.warnings[0]


def test_richardson_is_exact_on_quadratics() -> None:
    c = richardson((1.0, 2.0, 3.0))
    assert c == pytest.approx([3, -3, 1])


def test_gradients_through_measurement() -> None:
    q, k, v = (x.requires_grad_() for x in qkv())
    simulator = QuantumAttentionSimulator(error_mitigation=True)
    out, _ = simulator.simulate_attention(q, k, v, 64, 0.05)
    out.square().sum().backward()
    assert all(torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0 for x in (q, k, v))


@pytest.mark.parametrize(
    ("build", "call", "field"),
    [
        ({"noise_model": "magic"}, {}, "noise_model"),
        ({"temperature": -1.0}, {}, "temperature"),
        ({}, {"noise_level": 1.5}, "noise_level"),
        ({}, {"noise_level": float("nan")}, "noise_level"),
        ({}, {"num_samples": 0}, "num_samples"),
    ],
)
def test_wrong_arguments_are_named(build, call, field) -> None:
    with pytest.raises(InputError, match=field):
        QuantumAttentionSimulator(**build).simulate_attention(*qkv(), **call)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 13])
def test_circuits_prepare_their_distribution(n) -> None:
    p = np.random.default_rng(n).dirichlet(np.full(n, 0.5))
    circuit = state_preparation(p)
    assert sum(gate[0] == "ry" for gate in circuit.gates) == 2**circuit.qubits - 1
    found = np.abs(final_state(circuit, Deadline.after(60))) ** 2
    np.testing.assert_allclose(found[:n], p, atol=1e-12)
    np.testing.assert_allclose(found[n:], 0, atol=1e-12)


@pytest.mark.parametrize("p", [[], [0.0, 0.0], [-1.0, 2.0], [np.nan, 1.0]])
def test_what_is_no_distribution_is_refused(p) -> None:
    with pytest.raises(InputError, match="probabilities"):
        state_preparation(p)


def test_measured_rows_are_frequencies_of_the_weights() -> None:
    weights = torch.rand(3, 5, dtype=torch.float64)
    weights[1] = 0
    weights = (weights / weights.sum(-1, keepdim=True).clamp(min=1e-9)).requires_grad_()
    found, result = measured_rows(weights, 4000, seed=3)
    assert result.simulator
    assert float((found - weights).abs().max().detach()) < 0.05
    assert float(found[1].detach().sum()) == 0
    found.sum().backward()
    assert torch.isfinite(weights.grad).all()
    with pytest.raises(InputError, match="at most"):
        measured_rows(torch.ones(1, 300) / 300, 10)


@pytest.mark.parametrize("config", [
    {"backend": "simulation", "num_samples": 4096, "noise_level": 0.02, "error_mitigation": True},
    {"backend": "simulation", "num_samples": 512, "noise_model": "thermal", "noise_level": 0.1},
    {"backend": "hardware", "num_samples": 256},
])  # fmt: skip
def test_module_over_quantum_backends(config) -> None:
    module = QuantumMultiheadAttention(8, 2, quantum_config=config).eval()
    exact = QuantumMultiheadAttention(8, 2).eval()
    exact.load_state_dict(module.state_dict())
    x = torch.randn(6, 2, 8)
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[0, 4:] = True
    out, weights = module(x, x, x, key_padding_mask=padding)
    expected, _ = exact(x, x, x, key_padding_mask=padding)
    assert float((out - expected).detach().abs().max()) < 0.4
    assert float(weights[0, :, 4:].detach().abs().max()) == 0
    assert module.last_report["method"] == config["backend"]
    if config["backend"] == "hardware":
        assert module.last_report["backend"]
        assert isinstance(module.last_report["simulator"], bool)


@pytest.mark.parametrize("n", [1, 3, 16, 20])
def test_full_bond_is_the_dense_result(n) -> None:
    q, k, v = qkv(n, nq=n)
    mps_sim = MatrixProductStateSimulator(max_bond_dim=4**5)
    tensors = mps_sim.encode_attention_mps(q, k, v)
    expected = attention(q, k, v, budget=1.0).out
    torch.testing.assert_close(
        mps_sim.mps_attention_forward(tensors, v), expected, atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("bond", [1, 2, 4, 8])
def test_error_never_exceeds_its_bound(bond) -> None:
    q, k, v = qkv(32, nq=32)
    mps_sim = MatrixProductStateSimulator(max_bond_dim=bond)
    encoded = mps_sim.encode_attention_mps(q, k, v, is_causal=True)
    future = torch.ones(32, 32, dtype=torch.bool).triu(1)
    exact = (q @ k.transpose(1, 2) / 2).masked_fill(future, -torch.inf).softmax(-1).numpy()
    error = np.linalg.norm(encoded.weights() - exact, axis=(1, 2))
    assert (error <= encoded.error_bound + 1e-12).all()
    assert max(c.shape[0] for head in encoded.tensors for c in head) <= bond
    out = mps_sim.mps_attention_forward(encoded, v.numpy())
    np.testing.assert_allclose(out, encoded.weights() @ v.numpy(), atol=1e-12)


def test_local_weights_need_few_numbers() -> None:
    place = np.arange(256)
    q = np.zeros((256, 1))
    bias = -np.abs(place[:, None] - place[None, :]) / 8
    simulator = MatrixProductStateSimulator(max_bond_dim=32, tolerance=1e-4)
    encoded = simulator.encode_attention_mps(q, q, mask=bias)
    assert encoded.bytes < 256 * 256 * 8 / 20
    assert encoded.error_bound[0] < 2e-4 * encoded.operators[0].norm


def test_wrong_values_are_named() -> None:
    q, k, v = qkv()
    simulator = MatrixProductStateSimulator()
    encoded = simulator.encode_attention_mps(q, k, v)
    for wrong in (v[:, :3], v[0, 0], torch.zeros(5, 8, 4)):
        with pytest.raises(InputError, match="V"):
            simulator.mps_attention_forward(encoded, wrong)
    for options in ({"max_bond_dim": 0}, {"tolerance": 1.5}):
        with pytest.raises(InputError, match=next(iter(options))):
            MatrixProductStateSimulator(**options)
