"""Which value rows are read, and with what weight: samplers behind one name each.

A sampler sees the size of every key's term (groups, rows, n), not negative, and how many rows each
query may read, (groups, rows, 1). It answers with multipliers of mean one: sum_j m_j x_j is then an
unbiased estimate of sum_j x_j, whatever x is, and m_j = 0 means that row j is not read.

naive        independent draws in proportion to size, what measuring the state sum sqrt(p_j) |j>
             gives (Born's rule)
stratified   one draw from each of B equal parts of the cumulative sum, in key order (Cochran, 1977)
systematic   one random start, then equal steps (Madow, 1949)
hybrid       the largest half exactly, the rest of the budget systematically over the others
varopt       everything of size at least tau exactly, the others with probability size / tau, tau
             chosen so that B rows are expected: the split of least variance (Chao, 1982; Cohen et
             al., 2009); the others by strata, so that the variance has a closed form
adaptive     varopt with a budget of each row's own
topk         the largest B and nothing else: biased, for comparison
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcluster.registry import Registry

if TYPE_CHECKING:
    import torch

__all__ = ["SAMPLERS", "Sampler", "keep_largest", "threshold"]


@dataclass(frozen=True)
class Sampler:
    """A way to choose rows.

    ``draw(size, budget, generator)`` gives multipliers. ``variance(size, terms, budget)``, with
    terms (groups, rows, n, dv), gives the expected squared error of the sum, (groups, rows), or is
    None where no closed form is known. ``tail(size, norms, budget)``, with norms (groups, rows, n)
    at least those of the terms, gives a bound on that variance and on the length of one draw's
    contribution; None where draws are not independent.
    """

    name: str
    draw: Callable[[torch.Tensor, torch.Tensor, torch.Generator | None], torch.Tensor]
    variance: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    tail: (
        Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
        | None
    ) = None


SAMPLERS: Registry[Sampler] = Registry("sampler", "qcluster.samplers")
"""All samplers by name."""


def threshold(size: torch.Tensor, budget: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """tau (groups, rows, 1) with sum_j min(1, size_j / tau) = budget, and how many reach it.

    tau is 0 where no more than ``budget`` keys have a size at all: then all of them are read.
    """
    import torch

    ordered = size.sort(dim=-1, descending=True).values
    rest = ordered.flip(-1).cumsum(-1).flip(-1)
    left = budget - torch.arange(size.shape[-1], device=size.device)
    # After i exact rows the others share budget - i: the first i whose next row fits below tau.
    fits = (left > 0) & (ordered * left < rest * (1 - 1e-9))
    found = fits.any(-1, keepdim=True)
    exact = torch.where(found, fits.to(torch.int8).argmax(-1, keepdim=True), budget)
    tau = torch.where(found, rest.gather(-1, exact.clamp(max=size.shape[-1] - 1)), 0.0)
    return tau / (budget - exact).clamp(min=1), exact


def keep_largest(size: torch.Tensor, budget: torch.Tensor) -> torch.Tensor:
    """1 for the ``budget`` largest of each row, 0 for the others; the lower index wins ties."""
    import torch

    order = size.argsort(dim=-1, descending=True, stable=True)
    ranks = torch.arange(size.shape[-1], device=size.device).expand_as(order)
    first = (ranks < budget).to(size.dtype)
    return torch.zeros_like(size).scatter(-1, order, first) * (size > 0)


def _uniform(
    shape: tuple[int, ...], like: torch.Tensor, generator: torch.Generator | None
) -> torch.Tensor:
    import torch

    device = like.device if generator is None else generator.device
    drawn = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
    return drawn.to(like.device)


def _picked(size: torch.Tensor, budget: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Multipliers after ``budget`` draws at places (i + offset_i) / budget of the cumulative sum.

    offsets (groups, rows, most): in [0, 1) for one draw a stratum, or any place for ``naive``.
    """
    import torch

    # Half precision sums break beyond some 2,000 keys, and float32 beyond some 1e6.
    total = size.to(torch.float64).cumsum(-1)
    whole = total[..., -1:]
    most = offsets.shape[-1]
    index = torch.arange(most, device=size.device)
    places = (index + offsets) / budget.clamp(min=1) * whole
    chosen = torch.searchsorted(total, places.to(torch.float64), right=True)
    # A place rounded up to the end would fall on a key of no size: take the last that has one.
    last = torch.searchsorted(total, whole * (1 - 1e-15), right=False)
    chosen = torch.minimum(chosen, last)
    counted = ((index < budget) & (whole > 0)).to(size.dtype)
    counts = torch.zeros_like(size).scatter_add(-1, chosen, counted)
    step = (whole / budget.clamp(min=1)).to(size.dtype)
    return torch.where(counts > 0, counts * step / size.clamp(min=1e-38), 0.0)


def _draw_naive(
    size: torch.Tensor, budget: torch.Tensor, generator: torch.Generator | None
) -> torch.Tensor:
    import torch

    most = int(budget.max())
    index = torch.arange(most, device=size.device)
    free = _uniform((*size.shape[:-1], most), size, generator) * budget - index
    return _picked(size, budget, free)


def _draw_stratified(
    size: torch.Tensor, budget: torch.Tensor, generator: torch.Generator | None
) -> torch.Tensor:
    return _picked(size, budget, _uniform((*size.shape[:-1], int(budget.max())), size, generator))


def _draw_systematic(
    size: torch.Tensor, budget: torch.Tensor, generator: torch.Generator | None
) -> torch.Tensor:
    start = _uniform((*size.shape[:-1], 1), size, generator)
    return _picked(size, budget, start.expand(*size.shape[:-1], int(budget.max())))


def _draw_topk(
    size: torch.Tensor,
    budget: torch.Tensor,
    generator: torch.Generator | None,  # noqa: ARG001 - as all samplers
) -> torch.Tensor:
    return keep_largest(size, budget)


def _draw_hybrid(
    size: torch.Tensor, budget: torch.Tensor, generator: torch.Generator | None
) -> torch.Tensor:
    head = keep_largest(size, (budget + 1) // 2)
    rest = size * (1 - head)
    return head + _draw_systematic(rest, budget // 2, generator)


def _split_varopt(
    size: torch.Tensor, budget: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows that are read for certain (0 or 1), sizes of the others, draws among these."""
    _, exact = threshold(size, budget)
    head = keep_largest(size, exact)
    return head, size * (1 - head), budget - exact


def _draw_varopt(
    size: torch.Tensor, budget: torch.Tensor, generator: torch.Generator | None
) -> torch.Tensor:
    head, rest, draws = _split_varopt(size, budget)
    return head + _draw_stratified(rest, draws, generator)


def _naive_variance(size: torch.Tensor, terms: torch.Tensor, budget: torch.Tensor) -> torch.Tensor:
    share = size / size.sum(-1, keepdim=True).clamp(min=1e-38)
    squares = terms.square().sum(-1)
    first = (squares / share.clamp(min=1e-38)).masked_fill(share == 0, 0.0).sum(-1)
    return (first - terms.sum(-2).square().sum(-1)) / budget[..., 0]


def _strata_variance(size: torch.Tensor, terms: torch.Tensor, budget: torch.Tensor) -> torch.Tensor:
    """Each stratum's variance is its mean square less the square of its mean.

    With c the cumulative size in units of strata, the mean of stratum h is F(h + 1) - F(h), where F
    is the running sum of the terms, linear between keys.
    """
    import torch

    unit = size.sum(-1, keepdim=True).to(torch.float64) / budget.clamp(min=1)
    inclusion = torch.where(unit > 0, size / unit.clamp(min=1e-300), 0.0)
    squares = terms.square().sum(-1).to(torch.float64)
    first = torch.where(inclusion > 0, squares / inclusion.clamp(min=1e-300), 0.0).sum(-1)
    ends = inclusion.cumsum(-1)
    running = terms.to(torch.float64).cumsum(-2)
    most = int(budget.max())
    edges = torch.minimum(torch.arange(most + 1, device=size.device), budget).to(torch.float64)
    at = torch.searchsorted(ends, edges.contiguous()).clamp(max=size.shape[-1] - 1)
    before = ends.gather(-1, at) - inclusion.gather(-1, at)
    wide = at.unsqueeze(-1).expand(*at.shape, terms.shape[-1])
    here = terms.to(torch.float64).gather(-2, wide)
    part = ((edges - before) / inclusion.gather(-1, at).clamp(min=1e-300)).clamp(0, 1)
    sums = running.gather(-2, wide) - here + part.unsqueeze(-1) * here
    means = sums[..., 1:, :] - sums[..., :-1, :]
    return (first - means.square().sum((-1, -2))).clamp(min=0).to(size.dtype)


def _varopt_variance(size: torch.Tensor, terms: torch.Tensor, budget: torch.Tensor) -> torch.Tensor:
    _, rest, draws = _split_varopt(size, budget)
    return _strata_variance(rest, terms * (rest > 0).unsqueeze(-1), draws)


def _independent_tail(
    size: torch.Tensor, norms: torch.Tensor, budget: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    unit = size.sum(-1, keepdim=True) / budget.clamp(min=1)
    one = _one_draw(size, norms, unit)
    return (norms * one).sum(-1), one.amax(-1)


def _one_draw(size: torch.Tensor, norms: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    """Length of the contribution of one draw of each key: its term over its inclusion."""
    return (norms * unit / size.clamp(min=1e-38)).masked_fill(size <= 0, 0.0)


def _varopt_tail(
    size: torch.Tensor, norms: torch.Tensor, budget: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    _, rest, draws = _split_varopt(size, budget)
    return _independent_tail(rest, norms * (rest > 0), draws)


for _sampler in (
    Sampler("naive", _draw_naive, _naive_variance, _independent_tail),
    Sampler("stratified", _draw_stratified, _strata_variance, _independent_tail),
    Sampler("systematic", _draw_systematic),
    Sampler("hybrid", _draw_hybrid),
    Sampler("varopt", _draw_varopt, _varopt_variance, _varopt_tail),
    Sampler("adaptive", _draw_varopt, _varopt_variance, _varopt_tail),
    Sampler("topk", _draw_topk),
):
    SAMPLERS.register(_sampler.name, _sampler)
