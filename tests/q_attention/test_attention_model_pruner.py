"""Heads of a whole model: which go, and what the others take over."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qcluster.errors import InputError
from qcluster.q_attention import QSVDHeadPruner
from qcluster.q_attention.model_pruner import Calibration, choose_heads, gate_gradients, refit

LAYERS, HEADS, DIM = 2, 4, 3
WIDTH = HEADS * DIM


class Layer(nn.Module):
    """Mixes tokens, projects, adds, norms: what a transformer's attention does to its stream."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x):
        mixed = self.value(x) + self.value(x).mean(1, keepdim=True)
        return self.norm(x + self.out(mixed))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x.mean(1)


def calibrated(model, sums=True, batches=None):
    if batches is None:
        generator = torch.Generator().manual_seed(1)
        batches = [torch.randn(8, n, WIDTH, generator=generator) for n in (5, 9, 7)]
    return Calibration(
        model, batches, [layer.out for layer in model.layers], HEADS,
        [layer.norm for layer in model.layers] if sums else (),
    )  # fmt: skip


def cosine(a, b):
    return float(nn.functional.cosine_similarity(a.detach(), b.detach()).mean())


@pytest.mark.parametrize("sums", [True, False])
def test_heads_that_say_nothing_go_and_nothing_is_lost(sums) -> None:
    model = Model()
    with torch.no_grad():
        for layer, head in ((0, 1), (1, 3)):
            model.layers[layer].out.weight[:, head * DIM : (head + 1) * DIM] = 0
    calibration = calibrated(model, sums)
    before = copy.deepcopy(model.state_dict())
    pruned = QSVDHeadPruner(0.25, mode="joint").fit_model(calibration)
    assert sorted(pruned.order) == [(0, 1), (1, 3)]
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    x = torch.randn(4, 6, WIDTH)
    expected = model(x)
    pruned.install(calibration.projections)
    torch.testing.assert_close(model(x), expected, atol=1e-4, rtol=1e-4)


def test_what_stays_takes_over_what_goes() -> None:
    model = Model()
    calibration = calibrated(model)
    x = torch.randn(64, 6, WIDTH, generator=torch.Generator().manual_seed(5))
    whole = model(x).detach()
    pruned = QSVDHeadPruner(0.5, mode="joint").fit_model(calibration)
    assert (~pruned.kept).sum() == LAYERS * HEADS // 2 == len(pruned.order)
    plain = copy.deepcopy(model)
    for layer, kept in zip(plain.layers, pruned.kept, strict=True):
        layer.out.weight.data *= torch.from_numpy(np.repeat(kept, DIM))
    pruned.install(calibration.projections)
    for layer, kept in zip(model.layers, pruned.kept, strict=True):
        gone = torch.from_numpy(np.repeat(~kept, DIM))
        assert not bool(layer.out.weight[:, gone].any())
        assert layer.out.weight.requires_grad
    assert cosine(model(x), whole) > cosine(plain(x), whole)
    assert cosine(model(x), whole) > 0.9


def test_a_projection_without_bias_gets_one_and_seeds_repeat() -> None:
    model = Model()
    for layer in model.layers:
        layer.out.bias = None
    calibration = calibrated(model)
    first, again = (
        QSVDHeadPruner(0.25, mode="joint").fit_model(calibration, seed=3) for _ in range(2)
    )
    assert first.order == again.order
    assert all(np.array_equal(a, b) for a, b in zip(first.w_o, again.w_o, strict=True))
    assert model.layers[0].out.bias is None
    first.install(calibration.projections)
    np.testing.assert_allclose(model.layers[0].out.bias.detach().numpy(), first.bias[0], rtol=1e-6)


def test_nothing_removed_moves_nothing() -> None:
    model = Model()
    calibration = calibrated(model)
    targets = [sums for _, sums in calibration.observe(range(LAYERS))]
    weights, biases = refit(calibration, np.ones((LAYERS, HEADS), bool), targets)
    for layer, w, b in zip(model.layers, weights, biases, strict=True):
        torch.testing.assert_close(w, layer.out.weight.double(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(b, layer.out.bias.double(), atol=1e-4, rtol=1e-4)


def test_gradients_are_those_of_fading_a_head() -> None:
    model = Model().double()
    batch = torch.randn(3, 5, WIDTH, dtype=torch.float64)
    calibration = calibrated(model, batches=[batch])
    means = [inputs.mean(0) for inputs, _ in calibration.observe(range(LAYERS))]
    found = gate_gradients(calibration, means, seed=0)
    assert found.shape == (3 * 3, LAYERS * HEADS)
    along = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
    step, layer, head = 1e-6, 1, 2
    columns = slice(head * DIM, (head + 1) * DIM)
    with torch.no_grad():
        whole = nn.functional.normalize(model(batch))
        out = model.layers[layer].out
        old = out.weight.clone()
        out.weight[:, columns] *= 1 - step
        out.bias += step * old[:, columns] @ means[layer][columns]
        faded = nn.functional.normalize(model(batch))
    expected = ((whole - faded) * along).sum(1) / step
    torch.testing.assert_close(found[:3, layer * HEADS + head], expected, atol=1e-5, rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 8), st.integers(1, 4))
def test_each_choice_is_the_best_next_one(seed, heads, goal) -> None:
    gradients = torch.randn(20, heads, generator=torch.Generator().manual_seed(seed)).double()
    order = choose_heads(gradients, min(goal, heads))
    assert len(set(order)) == len(order)
    for i, head in enumerate(order):
        base = gradients[:, order[:i]].sum(1)
        costs = [float((base + gradients[:, h]).square().mean())
                 for h in range(heads) if h not in order[:i]]  # fmt: skip
        own = float((base + gradients[:, head]).square().mean())
        assert own <= min(costs) + 1e-12


def test_heads_that_cancel_go_together() -> None:
    """Ranked one by one, the last of them would come after both of the others."""
    a = torch.randn(50, generator=torch.Generator().manual_seed(0)).double()
    gradients = torch.stack([1.05 * a, a.roll(1), -0.99 * a, 1.02 * a.roll(3)], 1)
    assert choose_heads(gradients, 2) == [2, 0]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"projections": []}, "projections"),
        ({"projections": [nn.Identity()]}, "projections"),
        ({"heads": 0}, "heads"),
        ({"heads": True}, "heads"),
        ({"heads": 5}, "projections"),
        ({"sums": [nn.LayerNorm(WIDTH)]}, "sums"),
        ({"batches": []}, "batches"),
    ],
)
def test_calibrations_that_do_not_fit_are_named(change, field) -> None:
    model = Model()
    good = {
        "run": model, "batches": [torch.randn(2, 3, WIDTH)], "heads": HEADS,
        "projections": [layer.out for layer in model.layers],
    }  # fmt: skip
    with pytest.raises(InputError, match=field):
        Calibration(**{**good, **change})


def test_runs_that_do_not_fit_are_named() -> None:
    model = Model()
    fit = QSVDHeadPruner(0.25, mode="joint").fit_model
    batches = [torch.randn(2, 3, WIDTH)]
    outs = [layer.out for layer in model.layers]
    with pytest.raises(InputError, match="called once a batch"):
        fit(Calibration(lambda x: x.mean(1), batches, outs, HEADS))
    with pytest.raises(InputError, match="'run'"):
        fit(Calibration(lambda x: model(x) * torch.nan, batches, outs, HEADS))
    with pytest.raises(InputError, match="rows, tokens"):
        fit(Calibration(lambda x: model(x)[0], [torch.randn(3, WIDTH)], [model.layers[0].out], 4))
    with pytest.raises(InputError, match="mode"):
        QSVDHeadPruner(0.25).fit_model(calibrated(model))
    with pytest.raises(InputError, match="mode"):
        QSVDHeadPruner(0.25, mode="joint").fit([], [])
    pruned = fit(calibrated(model))
    with pytest.raises(InputError, match="projections"):
        pruned.install(outs[:1])
