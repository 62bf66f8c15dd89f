"""Trains and operators: measured error never above the bound, and the matrix never formed."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import InputError, SolverFailed
from qcluster.quantum.mps import (
    LocalAttention,
    TensorTrain,
    certify,
    encode,
    encode_entries,
    round_train,
    tt_cross,
    tt_svd,
)


def full(attention):
    index = np.arange(attention.n)
    return attention(*np.broadcast_arrays(index[:, None], index))


def random_train(generator, modes, rank):
    ranks = [1, *[rank] * (len(modes) - 1), 1]
    return TensorTrain(tuple(
        generator.normal(size=(a, m, b)) for a, m, b in zip(ranks, modes, ranks[1:], strict=False)
    ))  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=5),
    st.integers(1, 4),
    st.floats(0, 2),
    st.integers(0, 2**16),
)
def test_truncation_stays_within_the_frobenius_bound(modes, rank, tolerance, seed):
    tensor = np.random.default_rng(seed).normal(size=modes)
    train = tt_svd(tensor, max_rank=rank, tolerance=tolerance)
    assert np.linalg.norm(train.full() - tensor) <= train.error_bound
    assert max(train.ranks, default=1) <= rank
    loose = tt_svd(tensor, tolerance=tolerance)
    assert loose.error_bound <= tolerance + 1e-12


def test_the_bound_is_the_root_of_all_discarded_squares():
    # One cut: the discarded values are those of the matrix, and the bound is the error itself.
    matrix = np.random.default_rng(1).normal(size=(12, 9))
    train = tt_svd(matrix, max_rank=4)
    sigma = np.linalg.svd(matrix, compute_uv=False)
    assert train.error_bound == pytest.approx(np.sqrt((sigma[4:] ** 2).sum()), rel=1e-12)
    assert np.linalg.norm(train.full() - matrix) == pytest.approx(train.error_bound, rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.floats(0, 5), st.integers(0, 2**16))
def test_rounding_keeps_its_bound_and_adds_to_an_earlier_one(count, rank, tolerance, seed):
    train = random_train(np.random.default_rng(seed), [3] * count, rank)
    tensor = train.full()
    assert train.norm() == pytest.approx(np.linalg.norm(tensor), rel=1e-12)
    rounded = round_train(train, tolerance=tolerance)
    assert np.linalg.norm(rounded.full() - tensor) <= rounded.error_bound
    again = round_train(rounded, max_rank=1)
    assert np.linalg.norm(again.full() - tensor) <= again.error_bound


def test_a_product_state_needs_rank_one_and_a_ghz_state_two():
    assert tt_svd(np.ones((2,) * 10), tolerance=1e-9).ranks == (1,) * 9
    ghz = np.zeros((2,) * 10)
    ghz[(0,) * 10] = ghz[(1,) * 10] = 2**-0.5
    train = tt_svd(ghz, tolerance=1e-9)
    assert train.ranks == (2,) * 9
    assert np.allclose(train.full(), ghz, atol=1e-12)
    assert train.bytes == 8 * (2 * 2 * 2 + 8 * 2 * 2 * 2)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(["auto", "dense", "low_rank", "qtt"]),
    st.one_of(st.none(), st.integers(1, 6)),
    st.integers(0, 2**16),
)
def test_every_form_keeps_its_bound_and_multiplies_as_its_matrix(rows, columns, form, rank, seed):
    generator = np.random.default_rng(seed)
    matrix = generator.normal(size=(rows, columns))
    operator = encode(matrix, tolerance=1e-2, max_bond_dim=rank, form=form)
    held = operator.matrix()
    assert held.shape == matrix.shape
    assert np.linalg.norm(held - matrix) <= operator.error_bound + 1e-12
    values = generator.normal(size=(columns, 3))
    assert np.allclose(operator.apply(values), held @ values, atol=1e-10)
    assert np.allclose(operator.apply(values[:, 0]), held @ values[:, 0], atol=1e-10)
    if form == "auto":
        assert operator.relative_bound <= 1e-2
        assert operator.bytes <= matrix.nbytes


def test_the_form_follows_the_structure():
    generator = np.random.default_rng(0)
    local = encode(full(LocalAttention(512, 8.0)), tolerance=1e-3)
    assert local.form == "qtt"
    assert local.bytes < 512 * 512 * 8 / 100
    u, v = generator.normal(size=(200, 3)), generator.normal(size=(3, 150))
    assert encode(u @ v, tolerance=1e-6).form == "low_rank"
    assert encode(generator.normal(size=(64, 64)), tolerance=1e-3).form == "dense"


def test_a_rank_too_small_for_the_tolerance_is_answered_by_the_dense_form():
    matrix = np.random.default_rng(0).normal(size=(32, 32))
    assert encode(matrix, max_bond_dim=2).form == "dense"
    forced = encode(matrix, max_bond_dim=2, form="qtt")
    assert forced.relative_bound > 1e-3  # and says so
    assert max(core.shape[2] for core in forced.factors) <= 2


@pytest.mark.parametrize("n", [1, 2, 3, 200, 256, 700])
@pytest.mark.parametrize("causal", [False, True])
def test_cross_operators_are_within_their_certificate(n, causal):
    attention = LocalAttention(n, 5.0, causal=causal)
    operator = encode_entries(attention, n, tolerance=1e-4)
    exact = full(attention)
    error = np.linalg.norm(operator.matrix() - exact)
    assert error <= operator.error_bound + 1e-13
    assert operator.relative_bound <= 1e-4
    assert np.allclose(exact.sum(axis=1), 1.0)
    assert np.allclose(attention.apply(np.eye(n)), exact, atol=1e-12)


def test_the_certificate_by_a_band_holds_for_the_whole_matrix():
    attention = LocalAttention(1024, 30.0)
    # A poor train on purpose: the bound must still cover what lies outside the band.
    train = tt_cross(attention, 10, max_rank=3, tolerance=1e-12)
    bound, norm = certify(train, attention, tail=attention.tail)
    exact, index = full(attention), np.arange(1024)
    far = np.abs(index[:, None] - index) > 256
    assert np.linalg.norm(exact[far]) <= attention.tail
    whole, _ = certify(train, attention)
    assert whole <= bound
    assert norm <= np.linalg.norm(exact) * (1 + 1e-12)


def test_a_train_with_weight_outside_the_band_is_found_out():
    attention = LocalAttention(1024, 2.0)
    ones = TensorTrain((np.ones((1, 4, 1)),) * 10)
    bound, _ = certify(ones, attention, tail=attention.tail)
    assert bound >= np.linalg.norm(1.0 - full(attention)) * (1 - 1e-9)


def test_65536_tokens_in_a_few_kilobytes():
    n, d = 65536, 4
    attention = LocalAttention(n, 8.0)
    values = np.random.default_rng(3).normal(size=(n, d))
    exact = attention.apply(values)
    tracemalloc.start()
    operator = encode_entries(attention, n, tail=attention.tail)
    wrong, rows = 0.0, 0
    for first, part in operator.stream(values):
        assert first == rows
        wrong += float(((part - exact[first : first + len(part)]) ** 2).sum())
        rows += len(part)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == n
    assert operator.bytes <= 16 * 2**20
    assert operator.relative_bound <= 1e-3
    assert np.sqrt(wrong) <= operator.error_bound * np.linalg.norm(values, 2)
    assert peak < 200 * 2**20  # n x n floats would be 32 GiB


def test_what_does_not_compress_is_refused_with_the_bound_reached():
    table = np.random.default_rng(0).normal(size=(64, 64))
    with pytest.raises(SolverFailed, match="relative error at most"):
        encode_entries(lambda i, j: table[i, j], 64, max_bond_dim=4)
    # With all the rank it needs it is exact.
    assert encode_entries(lambda i, j: table[i, j], 64, max_bond_dim=64).relative_bound < 1e-3


def test_nothing_to_hold_and_zeros():
    zero = encode(np.zeros((5, 7)))
    assert not zero.matrix().any()
    assert zero.relative_bound == 0.0
    assert not encode_entries(lambda i, j: 0.0 * i, 16).matrix().any()


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: encode(np.zeros((0, 3))), "matrix"),
        (lambda: encode([[1.0, np.nan]]), "matrix"),
        (lambda: encode(np.eye(2), form="tree"), "form"),
        (lambda: encode(np.eye(2), tolerance=-1), "tolerance"),
        (lambda: encode(np.eye(2), tolerance=float("nan")), "tolerance"),
        (lambda: encode(np.eye(2), max_bond_dim=0), "max_rank"),
        (lambda: encode(np.eye(2)).apply([1.0, 2.0, 3.0]), "values"),
        (lambda: encode(np.eye(2)).apply([1.0, np.inf]), "values"),
        (lambda: tt_svd(np.zeros((2, 0))), "tensor"),
        (lambda: tt_svd(3.0), "tensor"),
        (lambda: tt_svd([np.inf]), "tensor"),
        (lambda: encode_entries(lambda i, j: 0.0 * i, 0), "n"),
        (lambda: encode_entries(lambda i, j: 0.0 * i, 10**6), "tail"),
        (lambda: LocalAttention(0, 1.0), "n"),
        (lambda: LocalAttention(4, 0.0), "tau"),
    ],
)
def test_bad_input_names_the_field(call, field):
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.field == field
