"""Low-bit copies, clusters, levels and bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from qcluster.errors import InputError
from qcluster.q_attention import attention
from qcluster.q_attention.clusters import cluster_keys, contiguous, rest, summarise
from qcluster.q_attention.levels import multilevel
from qcluster.q_attention.lowbit import allocate_bits, shrink
from qcluster.q_attention.plans import build, plan_certified, plan_levels
from qcluster.q_attention.problem import state
from qcluster.q_attention.store import score_noise, write


def inputs(groups=2, rows=6, n=400, d=16, seed=0):
    """Keys in a few blobs with values that go with them, as in trained models."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(groups, 12, d, generator=g) * 1.5
    which = torch.randint(12, (groups, n), generator=g)
    wide = which.unsqueeze(-1).expand(-1, -1, d)
    k = centres.gather(1, wide) + 0.4 * torch.randn(groups, n, d, generator=g)
    v = centres.flip(1).gather(1, wide) + 0.6 * torch.randn(groups, n, d, generator=g)
    return 1.2 * torch.randn(groups, rows, d, generator=g), k, v


@pytest.fixture(scope="module")
def real(data_dir):
    with np.load(data_dir / "attention" / "minilm_qkv_512.npz") as data:
        return [torch.from_numpy(data[x].astype(np.float32)) for x in "qkv"]


def test_bits_go_where_the_range_is() -> None:
    spread = torch.tensor([[1.0, 1.0, 100.0, 0.0]])
    bits = allocate_bits(spread, 12)
    assert bits.sum() == 12
    assert bits[0].argmax() == 2
    assert bits[0, 3] == 1
    best = min(
        (sum((s / (2**b - 1)) ** 2 for s, b in zip((1, 1, 100, 0), split, strict=True)), split)
        for split in np.ndindex(12, 12, 12, 12)
        if sum(split) == 12 and min(split) >= 1
    )[0]
    found = (spread / (2.0**bits - 1)).square().sum().item()
    assert found == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("total", [3, 100])
def test_impossible_bits_are_refused(total) -> None:
    with pytest.raises(InputError, match="bits"):
        allocate_bits(torch.ones(1, 4), total)


def test_dithered_errors_are_uniform_and_independent_of_the_data() -> None:
    x = torch.randn(1, 4000, 6).double() * torch.tensor([1.0, 2, 3, 4, 5, 6])
    copy = shrink(x, 18)
    error = (copy.values - x)[0]
    assert float((error.abs() / copy.step[0]).max()) <= 0.5 + 1e-9
    assert error.square().mean(0).tolist() == pytest.approx(
        (copy.step[0, 0].square() / 12).tolist(), rel=0.08
    )
    assert float((error.mean(0) / copy.step[0, 0]).abs().max()) < 0.03
    corr = np.corrcoef(np.concatenate([error.T.numpy(), x[0].T.numpy()]))
    assert np.abs(corr[:6, 6:]).max() < 0.07
    assert np.abs(corr[:6, :6] - np.eye(6)).max() < 0.07


def test_equal_seeds_write_equal_copies() -> None:
    x = torch.randn(2, 50, 4)
    assert torch.equal(shrink(x, 12, seed=3).values, shrink(x, 12, seed=3).values)
    assert not torch.equal(shrink(x, 12, seed=3).values, shrink(x, 12, seed=4).values)
    assert shrink(x, 12).row_bytes == 1.5


def test_constant_channels_survive() -> None:
    x = torch.ones(1, 10, 4) * 7
    torch.testing.assert_close(shrink(x, 8).values, x)


def test_score_noise_is_the_moments_of_the_weights() -> None:
    x = torch.randn(1, 60_000, 4).double()
    q = torch.tensor([[[1.5, -2.0, 0.7, 0.1]]], dtype=torch.float64)
    copy = shrink(x, 8)
    noise, log_mean = score_noise(q, copy, 0.5)
    eta = (0.5 * q @ (copy.values - x).transpose(1, 2)).exp()
    assert eta.mean().log().item() == pytest.approx(log_mean.item(), rel=0.02)
    assert (eta.var() / eta.mean() ** 2).item() == pytest.approx(noise.item(), rel=0.03)


@pytest.mark.parametrize("n", [1, 5, 400, 5000])
def test_every_key_has_a_cluster(n) -> None:
    _, k, v = inputs(n=n)
    of_key = cluster_keys(k, 8)
    held = summarise(k, v, of_key, 8)
    assert held.size.sum(1).tolist() == [n, n]
    assert held.count == int(of_key.max()) + 1
    if n == 400:
        within = rest(k, held.keys, of_key).square().sum().item()
        runs = summarise(k, v, contiguous(n, 2, 8, k.device), 8)
        assert within < 0.5 * rest(k, runs.keys, runs.of_key).square().sum().item()


def test_a_full_block_of_clusters_stays_when_keys_are_added() -> None:
    _, k, _ = inputs(groups=1, n=3000)
    assert torch.equal(cluster_keys(k[:, :2048], 8), cluster_keys(k, 8)[:, :2048])


def test_reading_everything_is_exact() -> None:
    q, k, v = inputs()
    problem = state(q, k, v)
    for clusters in (None, summarise(k, v, cluster_keys(k, 8), 4)):
        store = write(k, v, bits=(48, 48), clusters=clusters, dither=False)
        found = multilevel(problem, store, 1e9)
        expected = F.scaled_dot_product_attention(q, k, v)
        torch.testing.assert_close(found.out, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("share", [0.05, 0.12, 0.3, 0.6])
def test_weights_stand_for_the_softmax(share) -> None:
    q, k, v = inputs()
    problem = state(q, k, v)
    store = build(problem, plan_levels(400, 16, 16, share), seed=0)
    found = multilevel(problem, store, share * problem.fp16_bytes)
    torch.testing.assert_close(found.weights.sum(-1), torch.ones(2, 6))
    exact = (q @ k.transpose(1, 2) / 4).softmax(-1)
    assert (found.weights - exact).abs().sum(-1).mean() / 2 < 0.35 * (1 - share)


def test_dithered_copies_are_unbiased_over_draws() -> None:
    """The numerator and denominator are exactly unbiased, so the ratio nearly is."""
    q, k, v = inputs(groups=1, rows=2, n=100)
    problem, expected = state(q, k, v), F.scaled_dot_product_attention(q, k, v)
    outs = torch.stack([
        multilevel(problem, write(k, v, bits=(64, 64), clusters=None, dither=True, seed=s), 0.0).out
        for s in range(200)
    ])  # fmt: skip
    off = (outs.mean(0) - expected).abs() / (outs.std(0) / 200**0.5)
    assert float(off.mean()) < 1.6


@pytest.mark.parametrize("delta", [0.1, 0.01])
def test_bounds_hold_in_every_layer_of_a_real_model(real, delta) -> None:
    q, k, v = real
    q = q[:, :, ::8]
    expected = F.scaled_dot_product_attention(q, k, v)
    held = []
    for seed in range(3):
        found = attention(q, k, v, budget=0.28, certificate=True, delta=delta, generator=seed)
        assert found.share <= 0.28
        assert not found.warnings
        held.append(((found.out - expected).norm(dim=-1) <= found.bound).double())
        assert (found.bound / expected.norm(dim=-1)).median() < 0.07
    assert (torch.stack(held).mean((0, 2, 3)) >= 1 - delta).all()


@pytest.mark.parametrize("budget", [24, 64])
@pytest.mark.parametrize("sampler", ["naive", "stratified", "systematic", "hybrid", "varopt"])
def test_bounds_of_sampled_rows_hold(real, budget, sampler) -> None:
    q, k, v = (x[:2] for x in real)
    q = q[:, :, ::16]
    expected = F.scaled_dot_product_attention(q, k, v)
    found = attention(q, k, v, sampler=sampler, budget=budget, certificate=True, delta=0.05)
    held = (found.out - expected).norm(dim=-1) <= found.bound
    assert held.double().mean() >= 0.95
    assert torch.isfinite(found.bound).all()


@pytest.mark.parametrize("eps", [0.05, 0.01, 1e-7])
def test_refinement_reaches_its_bound_or_is_exact(real, eps) -> None:
    q, k, v = (x[3:5] for x in real)
    q = q[:, :, ::16]
    expected = F.scaled_dot_product_attention(q, k, v)
    found = attention(q, k, v, budget=0.28, eps=eps, delta=0.05)
    assert (found.bound <= eps * found.out.norm(dim=-1) + 1e-12).all()
    error = (found.out - expected).norm(dim=-1)
    assert (error <= found.bound + 1e-5).double().mean() >= 0.95
    if eps == 1e-7:
        assert found.exact_rows == q[..., 0].numel()
        assert found.share > 1


def test_hopeless_scores_are_computed_exactly() -> None:
    q, k, v = inputs()
    found = attention(q * 50, k, v, budget=0.3, certificate=True)
    expected = F.scaled_dot_product_attention(q * 50, k, v)
    error = (found.out - expected).norm(dim=-1)
    assert found.exact_rows > 0
    assert (error <= found.bound + 1e-5).double().mean() >= 0.9


def test_real_inputs_beat_the_oracle_tenfold(real) -> None:
    q, k, v = real
    q = q[:, :, ::16]
    expected = F.scaled_dot_product_attention(q, k, v)
    scores = q @ k.transpose(-1, -2) / 32**0.5
    keep = scores >= scores.topk(143, -1).values[..., -1:]
    oracle = scores.masked_fill(~keep, -math.inf).softmax(-1) @ v
    found = attention(q, k, v, budget=0.28)

    def mean(x):
        return ((x - expected).norm(dim=-1) / expected.norm(dim=-1)).mean().item()

    assert found.share <= 0.28
    assert mean(found.out) * 10 < mean(oracle)


def test_plans_say_what_a_budget_does_not_allow() -> None:
    assert "less than the least" in plan_levels(64, 8, 8, 0.01).warnings[0]
    assert "bounds need" in plan_certified(512, 32, 32, 0.1).warnings[0]
    assert plan_levels(512, 32, 32, 0.05).warnings == ()
    assert plan_certified(512, 32, 32, 0.28).warnings == ()
