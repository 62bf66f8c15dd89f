"""The choice of pipeline: safe before it knows, close to the best single one after."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import FormatError, InputError
from qcluster.q_energy.meta import (
    PIPELINES,
    SAFE,
    MetaNet,
    MetaState,
    choose,
    default_meta,
    log_ratios,
    observe,
)
from qcluster.q_energy.meta_training import fit_meta, generated_history, stored_histories

ARMS = ("independent", "classical", "gnn")


def play(costs: np.ndarray, net: MetaNet | None = None) -> tuple[list[str], MetaState]:
    """Choices over windows of full information, costs (windows, arms)."""
    state, chosen = MetaState(), []
    for row in costs:
        chosen.append(choose(state, "job", ARMS, net).pipeline)
        state = observe(state, "job", dict(zip(ARMS, row, strict=True)), net)
    return chosen, state


def paid(costs: np.ndarray, chosen: list[str]) -> float:
    return float(sum(row[ARMS.index(pick)] for row, pick in zip(costs, chosen, strict=True)))


def test_the_safe_pipeline_goes_first() -> None:
    first = choose(MetaState(), "new", PIPELINES)
    assert (first.pipeline, first.by) == (SAFE, "safe")
    assert choose(MetaState(), "new", ("gnn", "qaoa")).pipeline == "gnn"


@pytest.mark.parametrize("best", range(3))
def test_it_learns_which_pipeline_wins_for_a_category(best: int) -> None:
    rng = np.random.default_rng(best)
    costs = 1.1 + 0.02 * rng.random((60, 3))
    costs[:, best] -= 0.1
    chosen, state = play(costs)
    assert chosen[-20:] == [ARMS[best]] * 20
    shown = state.table()["job"]
    assert min((v, k) for k, v in shown.items() if v is not None)[1] == ARMS[best]
    assert shown["qaoa"] is None
    assert state.categories["job"].wins[PIPELINES.index(ARMS[best])] == 60


@pytest.mark.parametrize("seed", range(5))
def test_regret_on_drifting_costs_is_within_half_a_percent(seed: int) -> None:
    rng = np.random.default_rng(seed)
    drift = np.cumsum(rng.normal(0, 0.004, (300, 3)), axis=0)
    costs = np.exp(drift - drift.min(axis=1, keepdims=True))
    chosen, _ = play(costs)
    best = costs.sum(axis=0).min()
    assert paid(costs, chosen) <= 1.005 * best


def test_bad_networks_are_not_followed_for_long() -> None:
    """Weights that forecast the opposite: past costs take over, and the plan says so."""
    like = default_meta()
    wrong = {k: np.zeros_like(w) for k, w in like.weights.items()}
    wrong["b_cost"] = np.array([-3.0, 3.0, 3.0, 3.0, 3.0])
    net = MetaNet(wrong)
    costs = np.tile([1.3, 1.1, 1.0], (80, 1))
    chosen, state = play(costs, net)
    assert chosen[-40:] == ["gnn"] * 40
    assert choose(state, "job", ARMS, net).by == "hedge"
    assert choose(state, "job", ARMS).pipeline == "gnn"


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_only_what_is_allowed_is_chosen(data: st.DataObject) -> None:
    allowed = data.draw(st.lists(st.sampled_from(PIPELINES), min_size=1, unique=True))
    state = MetaState()
    for _ in range(data.draw(st.integers(0, 6))):
        arms = data.draw(st.lists(st.sampled_from(PIPELINES), unique=True))
        state = observe(state, "x", {a: data.draw(st.floats(0, 100)) for a in arms})
    assert choose(state, "x", allowed).pipeline in allowed


def test_categories_are_kept_apart_and_survive_the_store() -> None:
    state = observe(MetaState(), "a", {"classical": 1.0, "gnn": 1.5})
    state = observe(state, "b", {"classical": 1.5, "gnn": 1.0})
    state = MetaState.from_dict(state.to_dict())
    assert choose(state, "a", ("classical", "gnn")).pipeline == "classical"
    assert choose(state, "b", ("classical", "gnn")).pipeline == "gnn"


def test_unknown_costs_change_nothing_about_a_pipeline() -> None:
    state = observe(MetaState(), "a", {"classical": 1.0, "gnn": 2.0})
    after = observe(state, "a", {"classical": 1.0})
    gnn = PIPELINES.index("gnn")
    assert after.categories["a"].mean_loss[gnn] == state.categories["a"].mean_loss[gnn]
    assert observe(state, "a", {}) is state


@pytest.mark.parametrize("cost", [float("nan"), float("inf"), -1.0])
def test_a_cost_that_is_none_is_refused(cost: float) -> None:
    with pytest.raises(InputError, match=r"costs\.gnn"):
        log_ratios({"gnn": cost})


def test_unknown_names_are_refused_with_the_choices() -> None:
    with pytest.raises(InputError, match="independent"):
        log_ratios({"magic": 1.0})
    with pytest.raises(InputError, match="independent"):
        choose(MetaState(), "a", ["magic"])
    with pytest.raises(InputError, match="at least one"):
        choose(MetaState(), "a", [])


def test_training_learns_to_forecast_and_repeats_itself() -> None:
    histories = [generated_history(seed, 24) for seed in range(20)]
    net = fit_meta(histories, epochs=60)
    np.testing.assert_array_equal(
        fit_meta(histories, epochs=60).weights["w_in"], net.weights["w_in"]
    )
    errors, plain = [], []
    for history in (generated_history(seed, 24) for seed in range(100, 110)):
        hidden, cell = np.zeros(12), np.zeros(12)
        for now, then in itertools.pairwise(history):
            known = np.isfinite(now)
            x = np.concatenate([np.where(known, now, 0.0), known])
            hidden, cell = net.step(hidden, cell, x)
            ok = np.isfinite(then)
            errors.append(np.square(net.forecast(hidden) - then)[ok].mean())
            plain.append(np.square(then)[ok].mean())
    assert np.mean(errors) < 0.8 * np.mean(plain)


def test_the_network_equals_torch() -> None:
    import torch

    net = default_meta()
    cell_ = torch.nn.LSTMCell(10, 12).double()
    with torch.no_grad():
        cell_.weight_ih.copy_(torch.tensor(net.weights["w_in"]))
        cell_.weight_hh.copy_(torch.tensor(net.weights["w_hid"]))
        cell_.bias_ih.copy_(torch.tensor(net.weights["b"]))
        cell_.bias_hh.zero_()
        x = torch.linspace(-1, 1, 10).double()[None]
        h, c = cell_(x, cell_(x))
    hidden, cell = net.step(np.zeros(12), np.zeros(12), x[0].numpy())
    hidden, cell = net.step(hidden, cell, x[0].numpy())
    np.testing.assert_allclose(hidden, h[0].numpy(), atol=1e-12)
    np.testing.assert_allclose(cell, c[0].numpy(), atol=1e-12)


def test_saved_weights_come_back_and_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "meta.safetensors"
    with pytest.raises(FormatError, match=r"meta\.safetensors"):
        MetaNet.load(path)
    default_meta().save(path)
    back = MetaNet.load(path)
    np.testing.assert_array_equal(back.weights["w_cost"], default_meta().weights["w_cost"])
    path.with_suffix(".json").write_text('{"kind": "other"}')
    with pytest.raises(FormatError, match="another model"):
        MetaNet.load(path)


def test_histories_come_from_stored_plans() -> None:
    def plan(category: str, **costs: float) -> dict:
        return {"choice": {"category": category}, "costs": costs}

    rows = [plan("a", classical=1.0, gnn=2.0), plan("b", gnn=1.0), plan("a", classical=1.0)]
    (history,) = stored_histories([*rows, {"choice": None, "costs": {}}])
    assert history.shape == (2, len(PIPELINES))
    assert history[0, PIPELINES.index("gnn")] == pytest.approx(np.log(2))
    with pytest.raises(InputError, match="at least one"):
        fit_meta([])
    with pytest.raises(InputError, match=r"histories\[0\]"):
        fit_meta([np.zeros((1, 5))])
