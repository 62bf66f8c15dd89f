"""The functional call: kinds, shapes, masks, budgets, bytes, reproducibility, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from qcluster.errors import InputError, NotFound
from qcluster.q_attention import attention

SAMPLERS = ("naive", "stratified", "systematic", "hybrid", "varopt", "adaptive", "topk")


def qkv(*lead, nq=7, n=64, d=8, dv=8, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((*lead, nq, d), (*lead, n, d), (*lead, n, dv))
    return [torch.randn(s, generator=generator, dtype=dtype) for s in shapes]


def error(found, expected):
    return ((found - expected).norm(dim=-1) / expected.norm(dim=-1)).mean().item()


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize("budget", [1.0, 64, 1000])
def test_whole_budget_is_torchs_attention(lead, budget) -> None:
    q, k, v = qkv(*lead, dv=5)
    result = attention(q, k, v, budget=budget)
    torch.testing.assert_close(result.out, F.scaled_dot_product_attention(q, k, v))
    assert result.method == "exact"
    assert result.share == 1
    assert result.bytes_read == 2 * (8 + 5) * 64 * q[..., 0].numel()


def test_masks_are_torchs() -> None:
    q, k, v = qkv(2, 3, nq=64)
    allowed = torch.rand(64, 64) > 0.3
    allowed[:, 0] = True
    added = torch.randn(2, 1, 64, 64)
    for options, theirs in (
        ({"mask": allowed}, {"attn_mask": allowed}),
        ({"mask": added}, {"attn_mask": added}),
        ({"is_causal": True}, {"is_causal": True}),
        ({"scale": 0.3}, {"scale": 0.3}),
    ):
        expected = F.scaled_dot_product_attention(q, k, v, **theirs)
        found = attention(q, k, v, budget=1.0, **options).out
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_grouped_queries() -> None:
    q, _, _ = qkv(2, 6)
    _, k, v = qkv(2, 3)
    expected = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    torch.testing.assert_close(attention(q, k, v, budget=1.0).out, expected)
    assert attention(q, k, v, budget=0.3).out.shape == expected.shape
    one = attention(q, k[:, :1], v[:, :1], budget=1.0).out
    wide = F.scaled_dot_product_attention(q, k[:, :1].expand(-1, 6, -1, -1),
                                          v[:, :1].expand(-1, 6, -1, -1))  # fmt: skip
    torch.testing.assert_close(one, wide)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numpy_in_numpy_out(dtype) -> None:
    q, k, v = (x.numpy().astype(dtype) for x in qkv(2))
    result = attention(q, k, v, budget=16, certificate=True)
    assert isinstance(result.out, np.ndarray)
    assert result.out.dtype == dtype
    assert result.bound.shape == q.shape[:-1]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("budget", [8, 0.3])
def test_equal_generators_draw_equally(sampler, budget) -> None:
    q, k, v = qkv(2)
    options = {"sampler": sampler, "budget": budget, "control_variate": "none"}
    first = attention(q, k, v, **options, generator=5).out
    again = attention(q, k, v, **options, generator=torch.Generator().manual_seed(5)).out
    torch.testing.assert_close(first, again, atol=0, rtol=0)
    if sampler not in ("topk", "varopt", "adaptive", "hybrid"):
        assert not torch.equal(first, attention(q, k, v, **options, generator=6).out)


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if s != "topk"])
@pytest.mark.parametrize("variate", ["none", "constant", "block", "lowbit"])
def test_estimates_are_unbiased(sampler, variate) -> None:
    q, k, v = qkv(nq=3, n=40)
    generator = torch.Generator().manual_seed(1)
    draws = torch.stack([
        attention(q, k, v, sampler=sampler, budget=8, control_variate=variate,
                  generator=generator).out
        for _ in range(200)
    ])  # fmt: skip
    deviation = draws.std(0) / 200**0.5
    off = (draws.mean(0) - F.scaled_dot_product_attention(q, k, v)).abs()
    assert float((off / (deviation + 1e-6)).max()) < 5


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("sampler", ["varopt", "naive", "systematic", "topk"])
def test_bytes_stay_within_the_share(share, sampler) -> None:
    q, k, v = qkv(2, nq=5, n=600, d=16, dv=16)
    result = attention(q, k, v, sampler=sampler, budget=share)
    assert not result.warnings
    assert result.share <= share
    assert result.share == pytest.approx(result.bytes_read / (2 * 600 * 32 * 10))


def test_more_bytes_less_error() -> None:
    q, k, v = qkv(2, nq=9, n=512, d=16, dv=16)
    expected = F.scaled_dot_product_attention(q, k, v)
    errors = [error(attention(q, k, v, budget=s).out, expected) for s in (0.05, 0.15, 0.3, 0.6)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.05


def test_rows_are_charged_as_documented() -> None:
    q, k, v = qkv(nq=3, n=100, d=8, dv=4)
    found = attention(q, k, v, sampler="topk", budget=10)
    assert found.bytes_read == 3 * (100 * 8 * 2 + 10 * 4 * 2)
    blocks = attention(q, k, v, sampler="topk", budget=10, control_variate="block")
    assert blocks.bytes_read == found.bytes_read + 3 * 7 * 4 * 2
    low = attention(q, k, v, sampler="topk", budget=10, control_variate="lowbit")
    assert low.bytes_read == found.bytes_read + 3 * (100 * (4 * 4 / 8 + 2) + 4 * 4)


def test_a_budget_too_small_for_anything_is_said() -> None:
    q, k, v = qkv(nq=2, n=32)
    result = attention(q, k, v, budget=0.01)
    assert "less than the least" in result.warnings[0]
    assert torch.isfinite(result.out).all()


@pytest.mark.parametrize("budget", [4, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("certificate", [False, True])
@pytest.mark.parametrize("sampler", ["varopt", "stratified", "naive"])
def test_rows_without_keys_are_zero(budget, certificate, sampler) -> None:
    q, k, v = (x.requires_grad_() for x in qkv(2))
    mask = torch.ones(2, 7, 64, dtype=torch.bool)
    mask[0, 3] = False
    mask[1, :, 10:] = False
    found = attention(q, k, v, budget=budget, mask=mask, certificate=certificate, sampler=sampler)
    assert float(found.out[0, 3].detach().abs().max()) == 0
    assert torch.isfinite(found.out).all()
    found.out.square().sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in (q, k, v) if x.grad is not None)
    if certificate:
        assert float(found.bound[0, 3]) == 0


@pytest.mark.parametrize("share", [0.06, 0.12, 0.3, 0.6])
@pytest.mark.parametrize("certificate", [False, True])
def test_a_causal_row_never_sees_what_comes_later(share, certificate) -> None:
    q, k, v = qkv(nq=96, n=96)
    before = attention(q, k, v, budget=share, is_causal=True, certificate=certificate).out
    # Ranges and means may not leak either, so only rows that stand alone are compared: a key's
    # value that grows a thousandfold must not be seen before it.
    v2 = v.clone()
    v2[80:] = 1000 + v2[80:]
    after = attention(q, k, v2, budget=share, is_causal=True, certificate=certificate).out
    assert float(after[:80].abs().max()) < 200 or share < 0.3
    assert float(before[:80].abs().max()) < 10


def test_gradient_keeps_the_drawn_rows() -> None:
    q, k, v = (x.double().requires_grad_() for x in qkv(nq=3, n=20, d=4, dv=4))

    def f(q, k, v):
        return attention(q, k, v, budget=6, sampler="systematic", control_variate="none").out

    out = f(q, k, v)
    out.sum().backward()
    read = v.grad.abs().sum(-1) > 0
    assert 0 < int(read.sum()) <= 18
    assert torch.isfinite(q.grad).all()
    assert torch.isfinite(k.grad).all()


def test_mean_gradient_is_the_exact_one() -> None:
    q, k, v = (x.double() for x in qkv(nq=2, n=16, d=4, dv=4))

    def gradient(call):
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]
        call(*inputs).square().sum().backward()
        return [x.grad for x in inputs]

    def linear(call):
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]
        call(*inputs).sum().backward()
        return [x.grad for x in inputs]

    expected = linear(F.scaled_dot_product_attention)
    generator = torch.Generator().manual_seed(0)
    draws = [
        linear(lambda *x: attention(*x, budget=6, sampler="stratified", control_variate="none",
                                    generator=generator).out)
        for _ in range(200)
    ]  # fmt: skip
    for i, exact in enumerate(expected):
        stacked = torch.stack([d[i] for d in draws])
        off = (stacked.mean(0) - exact).abs() / (stacked.std(0) / 200**0.5 + 1e-9)
        assert float(off.max()) < 5


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 40),
    nq=st.integers(1, 4),
    d=st.integers(1, 9),
    budget=st.one_of(st.integers(1, 50), st.floats(0.05, 1.0)),
    sampler=st.sampled_from(SAMPLERS),
    size=st.sampled_from([0.0, 1e-3, 1.0, 1e2]),
    certificate=st.booleans(),
)
def test_anything_small_gives_finite_numbers(n, nq, d, budget, sampler, size, certificate) -> None:
    generator = torch.Generator().manual_seed(n * 100 + d)
    q = torch.randn(nq, d, generator=generator) * size
    k, v = (torch.randn(n, d, generator=generator) for _ in range(2))
    found = attention(q, k * size, v, budget=budget, sampler=sampler, certificate=certificate)
    assert torch.isfinite(found.out).all()
    if certificate:
        assert torch.isfinite(found.bound).all()
        assert (found.bound >= 0).all()


@pytest.mark.parametrize("budget", [8, 0.3])
def test_huge_equal_and_repeated_scores(budget) -> None:
    q, k, v = qkv(nq=4, n=64)
    for keys in (k * 1e4, torch.zeros_like(k), k[:1].expand_as(k)):
        assert torch.isfinite(attention(q, keys, v, budget=budget).out).all()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"q": torch.zeros(2, 3, dtype=torch.int64)}, "q"),
        ({"q": torch.full((2, 8), torch.nan)}, "q"),
        ({"k": torch.zeros(0, 8)}, "k"),
        ({"k": torch.zeros(64, 5)}, "k"),
        ({"k": torch.zeros(64, 8, dtype=torch.float64)}, "k"),
        ({"v": torch.zeros(63, 8)}, "v"),
        ({"v": np.zeros((64, 8), np.float32)}, "k"),
        ({"budget": 0}, "budget"),
        ({"budget": True}, "budget"),
        ({"budget": 1.5}, "budget"),
        ({"budget": float("nan")}, "budget"),
        ({"budget": "4"}, "budget"),
        ({"delta": 0.0}, "delta"),
        ({"eps": -1.0}, "eps"),
        ({"control_variate": "x"}, "control_variate"),
        ({"criterion": "x"}, "criterion"),
        ({"scale": float("inf")}, "scale"),
        ({"mask": torch.zeros(3, 3, dtype=torch.bool)}, "mask"),
        ({"mask": torch.zeros(7, 64, dtype=torch.int32)}, "mask"),
        ({"mask": torch.full((7, 64), torch.nan)}, "mask"),
        ({"generator": -1}, "generator"),
    ],
)
def test_wrong_arguments_are_named(change, field) -> None:
    q, k, v = qkv()
    with pytest.raises(InputError, match=f"'{field}'"):
        attention(**{"q": q, "k": k, "v": v, "budget": 4, **change})


def test_unknown_samplers_are_listed() -> None:
    with pytest.raises(NotFound, match="varopt"):
        attention(*qkv(), budget=3, sampler="magic")
