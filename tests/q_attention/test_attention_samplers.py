"""Samplers against enumeration and against their closed forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.q_attention.estimate import chance_bound
from qcluster.q_attention.samplers import SAMPLERS, keep_largest, threshold


def sizes(rows=3, n=30, seed=0, power=3.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, rows, n, generator=generator, dtype=torch.float64) ** power


def full(size, budget):
    return torch.full((*size.shape[:-1], 1), budget)


@pytest.mark.parametrize("name", ["naive", "stratified", "systematic", "hybrid", "varopt"])
def test_multipliers_have_mean_one(name) -> None:
    size, generator = sizes(power=1.0) + 0.1, torch.Generator().manual_seed(0)
    draw = SAMPLERS.get(name).draw
    seen = torch.stack([draw(size, full(size, 7), generator) for _ in range(1500)])
    off = (seen.mean(0) - 1).abs() / (seen.std(0) / 1500**0.5 + 1e-9)
    assert float(off.max()) < 5.5


@pytest.mark.parametrize("name", SAMPLERS.names())
@pytest.mark.parametrize("budget", [1, 2, 7, 30])
def test_no_more_rows_than_allowed(name, budget) -> None:
    size = sizes()
    drawn = SAMPLERS.get(name).draw(size, full(size, budget), torch.Generator().manual_seed(1))
    assert int((drawn > 0).sum(-1).max()) <= budget


@pytest.mark.parametrize("name", ["naive", "stratified", "varopt", "adaptive"])
@pytest.mark.parametrize("budget", [4, 12])
def test_variance_is_what_is_measured(name, budget) -> None:
    size, generator = sizes(rows=16, n=60), torch.Generator().manual_seed(3)
    terms = size.unsqueeze(-1) * torch.randn(2, 1, 60, 5, generator=generator, dtype=torch.float64)
    sampler = SAMPLERS.get(name)
    predicted = sampler.variance(size, terms, full(size, budget))
    squares = torch.zeros_like(predicted)
    for _ in range(1200):
        drawn = sampler.draw(size, full(size, budget), generator)
        squares += ((drawn - 1).unsqueeze(-1) * terms).sum(-2).square().sum(-1)
    assert (squares / 1200 / predicted).mean().item() == pytest.approx(1, abs=0.05)
    assert float((squares / 1200 / predicted - 1).abs().max()) < 0.3


def test_order_of_variances() -> None:
    """Varopt is below strata, strata below independent draws, for every row (Cochran, 1977)."""
    size = sizes(rows=20, n=80)
    terms = size.unsqueeze(-1) * torch.randn(2, 1, 80, 5, dtype=torch.float64)
    naive, strata, varopt = (
        SAMPLERS.get(s).variance(size, terms, full(size, 16))
        for s in ("naive", "stratified", "varopt")
    )
    assert (strata <= naive * (1 + 1e-9)).all()
    assert varopt.mean() < strata.mean()


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e3)), min_size=1, max_size=12),
    budget=st.integers(1, 14),
)
def test_threshold_solves_its_equation(values, budget) -> None:
    size = torch.tensor(values, dtype=torch.float64).view(1, 1, -1)
    tau, exact = threshold(size, torch.tensor([[[budget]]]))
    positive = int((size > 0).sum())
    if float(tau) == 0:
        assert positive <= budget
        return
    assert (size / tau).clamp(max=1).sum().item() == pytest.approx(budget, rel=1e-6)
    assert int((size > tau * (1 + 1e-6)).sum()) <= int(exact) <= int((size >= tau * 0.999999).sum())


def test_largest_are_kept_in_order() -> None:
    size = torch.tensor([[[1.0, 3.0, 3.0, 0.0, 2.0]]])
    assert keep_largest(size, torch.tensor([[[2]]])).tolist() == [[[0, 1, 1, 0, 0]]]
    assert keep_largest(size, torch.tensor([[[9]]])).tolist() == [[[1, 1, 1, 0, 1]]]


def test_a_row_of_zeros_draws_nothing() -> None:
    size = torch.zeros(1, 2, 5)
    size[0, 1, 2] = 1.0
    for name, sampler in SAMPLERS.items():
        drawn = sampler.draw(size, full(size, 3), torch.Generator().manual_seed(0))
        assert torch.isfinite(drawn).all(), name
        assert float(drawn[0, 0].abs().sum()) == 0, name
        assert drawn[0, 1, 2].item() == pytest.approx(1), name


@pytest.mark.parametrize("name", ["naive", "stratified", "varopt"])
def test_tails_hold_what_they_promise(name) -> None:
    size, generator = sizes(rows=2, n=50), torch.Generator().manual_seed(5)
    terms = size.unsqueeze(-1) * torch.randn(2, 1, 50, 4, generator=generator, dtype=torch.float64)
    sampler = SAMPLERS.get(name)
    norms = terms.norm(dim=-1)
    variance, largest = sampler.tail(size, norms, full(size, 10))
    assert (sampler.variance(size, terms, full(size, 10)) <= variance * (1 + 1e-9)).all()
    bound = chance_bound(variance, largest, 0.1)
    broken = sum(
        ((sampler.draw(size, full(size, 10), generator) - 1).unsqueeze(-1) * terms)
        .sum(-2).norm(dim=-1).gt(bound).double().mean().item()
        for _ in range(300)
    )  # fmt: skip
    assert broken / 300 <= 0.1
