"""HHL, QSVT and QFT against dense linear algebra, and refusals outside their domains."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import chebyshev
from scipy.linalg import expm

from qcluster.errors import InputError
from qcluster.quantum import hhl_solve, qft_decode, qsvt_apply
from qcluster.quantum.hhl import HHLResult
from qcluster.quantum.qsvt import inverse_polynomial


def conditioned(n, kappa, seed=0, *, signs=False):
    generator = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(generator.normal(size=(n, n)))
    values = np.linspace(1 / kappa, 1, n)
    if signs:
        values[::2] *= -1
    matrix = (basis * values) @ basis.T
    return (matrix + matrix.T) / 2


@pytest.mark.parametrize(
    ("kappa", "clock", "wanted"), [(2, 6, 1e-3), (10, 8, 2e-3), (50, 10, 5e-3)]
)
def test_hhl_fidelity_at_given_clocks(kappa, clock, wanted):
    b = np.random.default_rng(1).normal(size=8)
    result = hhl_solve(conditioned(8, kappa), b, clock_qubits=clock)
    assert 1 - result.fidelity < wanted
    assert result.condition_number == pytest.approx(kappa)
    assert 0 < result.success_probability <= 1


def test_hhl_converges_with_the_clock():
    matrix, b = conditioned(6, 5, 3, signs=True), np.arange(1.0, 7.0)
    errors = []
    for clock in (6, 9, 12, 15):
        x = hhl_solve(matrix, b, clock_qubits=clock).x
        errors.append(np.linalg.norm(x - np.linalg.solve(matrix, b)) / np.linalg.norm(x))
    assert errors[-1] < 2e-3
    assert errors[-1] < errors[1] < errors[0]


def test_hhl_equals_its_circuit():
    """Phase estimation, rotation and its undoing on all 2^t n amplitudes."""
    matrix, b, t = conditioned(3, 3, 2), np.array([1.0, -2.0, 0.5]), 5
    count, largest = 2**t, np.abs(np.linalg.eigvalsh(matrix)).max()
    top = count // 2 - 1
    step = 2 * np.pi * top / (count * largest)
    state = np.kron(np.ones(count) / np.sqrt(count), b / np.linalg.norm(b)).reshape(count, 3)
    powers = [expm(1j * step * k * matrix) for k in range(count)]
    state = np.array([powers[k] @ state[k] for k in range(count)])
    state = np.fft.fft(state, axis=0, norm="ortho")
    signed = np.fft.fftfreq(count, 1 / count)
    rotation = np.divide(1.0, signed, out=np.zeros(count), where=signed != 0)
    state = np.fft.ifft(rotation[:, None] * state, axis=0, norm="ortho")
    state = np.array([powers[k].conj().T @ state[k] for k in range(count)])
    kept = state.sum(axis=0) / np.sqrt(count)  # clock back in |0>
    result = hhl_solve(matrix, b, clock_qubits=t)
    assert result.success_probability == pytest.approx(np.vdot(kept, kept).real, abs=1e-12)
    expected = kept.real * np.linalg.norm(b) * top / largest
    assert np.allclose(result.x, expected, atol=1e-12)


def test_hhl_of_rectangular_and_singular_systems():
    generator = np.random.default_rng(4)
    tall = generator.normal(size=(6, 3))
    result = hhl_solve(tall, tall @ [1.0, 2.0, -1.0], eps=1e-3)
    assert np.allclose(result.x, [1, 2, -1], atol=0.02)
    flat = np.diag([1.0, 0.5, 0.0])
    assert np.allclose(hhl_solve(flat, [1.0, 1.0, 1.0], eps=1e-3).x, [1, 2, 0], atol=0.02)
    assert HHLResult.from_dict(result.to_dict()) == result


@pytest.mark.parametrize(
    ("arguments", "field", "number"),
    [
        ({"A": np.diag([1.0, 1e-9]), "b": [1.0, 1.0]}, "A", "1e\\+09"),
        ({"A": np.eye(2), "b": [1.0]}, "b", "."),
        ({"A": np.eye(2), "b": [0.0, 0.0]}, "b", "zero"),
        ({"A": np.zeros((2, 2)), "b": [1.0, 0.0]}, "A", "zero"),
        ({"A": [[np.nan]], "b": [1.0]}, "A", "."),
        ({"A": [1.0], "b": [1.0]}, "A", "."),
        ({"A": conditioned(4, 50), "b": np.ones(4), "clock_qubits": 3}, "clock_qubits", "50"),
        ({"A": np.eye(2), "b": [1.0, 0.0], "eps": 0.0}, "eps", "."),
    ],
)
def test_hhl_refusals(arguments, field, number):
    with pytest.raises(InputError, match=number) as caught:
        hhl_solve(**arguments)
    assert caught.value.field == field


@settings(max_examples=25, deadline=None)
@given(st.floats(1, 60), st.sampled_from([1e-1, 1e-3, 1e-6]))
def test_inverse_polynomial_keeps_its_error(kappa, eps):
    series = inverse_polynomial(kappa, eps)
    x = np.linspace(1 / kappa, 1, 2001)
    assert not series[::2].any()
    assert np.abs(x * chebyshev.chebval(x, series) - 1).max() <= eps


def test_qsvt_inverse_of_many_shapes():
    generator = np.random.default_rng(5)
    for shape in ((5, 5), (7, 4), (4, 7)):
        matrix = generator.normal(size=shape)
        b = generator.normal(size=shape[0])
        result = qsvt_apply(matrix, b, eps=1e-6)
        assert np.allclose(result.value, np.linalg.pinv(matrix) @ b, rtol=1e-4, atol=1e-5)
        assert 0 < result.success_probability <= 1
        grid = np.linspace(-1, 1, 999)
        assert np.abs(chebyshev.chebval(grid, result.coefficients)).max() <= 1 + 1e-6


def test_qsvt_of_a_given_polynomial_is_the_matrix_function():
    matrix = conditioned(5, 4, 6, signs=True)
    b = np.random.default_rng(6).normal(size=5)
    scaled = matrix / np.linalg.norm(matrix, 2)
    for series in ([0, 0.3, 0, 0.5], [0.2, 0, -0.7], [1.0]):
        terms = [np.eye(5), scaled]
        for _ in range(len(series)):
            terms.append(2 * scaled @ terms[-1] - terms[-2])
        expected = sum(c * t for c, t in zip(series, terms, strict=False)) @ b
        assert np.allclose(qsvt_apply(matrix, b, coefficients=series).value, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"A": np.diag([1.0, 1e-5]), "b": [1.0, 1.0]}, "A"),
        ({"A": np.eye(2), "b": [1.0, 1.0], "coefficients": [0.1, 0.1]}, "coefficients"),
        ({"A": np.eye(2), "b": [1.0, 1.0], "coefficients": [0, 1.5]}, "coefficients"),
        ({"A": np.eye(2), "b": [1.0, 1.0], "coefficients": []}, "coefficients"),
        ({"A": np.eye(2), "b": [1.0, 1.0], "eps": 2.0}, "eps"),
        ({"A": np.eye(2), "b": [1.0]}, "b"),
        ({"A": [[1.0], [1.0, 2.0]], "b": [1.0]}, "A"),
    ],
)
def test_qsvt_refusals(arguments, field):
    with pytest.raises(InputError) as caught:
        qsvt_apply(**arguments)
    assert caught.value.field == field


@pytest.mark.parametrize("n", range(7))
def test_qft_circuit_is_the_unitary_transform(n):
    generator = np.random.default_rng(n)
    x = generator.normal(size=2**n) + 1j * generator.normal(size=2**n)
    j = np.arange(2**n)
    matrix = np.exp(2j * np.pi * np.outer(j, j) / 2**n) / np.sqrt(2**n)
    for inverse in (False, True):
        expected = (matrix.conj() if inverse else matrix) @ x
        for circuit in (False, True):
            found = qft_decode(x, inverse=inverse, circuit=circuit)
            assert np.allclose(found, expected, atol=1e-12)
    assert np.allclose(qft_decode(qft_decode(x), inverse=True), x)


@pytest.mark.parametrize("values", [[], [1.0, 2.0, 3.0], [[1.0]], [np.inf, 0.0], ["a", "b"]])
def test_qft_refusals(values):
    with pytest.raises(InputError):
        qft_decode(values)
