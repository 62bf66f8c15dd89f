"""The curve network: what it promises whatever its weights, what the shipped weights know."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import FormatError, InputError
from qcluster.q_energy.curve_net import CAPS, MEMORY, CurveNet, default_net, fitted_units
from qcluster.q_energy.curve_training import Sweep, fit_curve_net, generated
from qcluster.q_energy.curves import IDLE_SHARE, speed
from qcluster.q_energy.task_graph import FEATURES, TaskGraph, cost_feature, job_graph
from qcluster.telemetry import Job

# GPUs like those of the sweeps that the default weights were fitted to.
KNOWN_FLOORS = (0.4, 1 / 3)


def gpu_graph(seed: int, n: int = 12, floor: float = 0.4) -> TaskGraph:
    rng = np.random.default_rng(seed)
    features = np.zeros((n, len(FEATURES)))
    features[:, 0], features[:, 1] = rng.uniform(0.4, 0.9, n), floor
    return TaskGraph(features, rng.integers(0, n, (2, 2 * n)))


def random_net(seed: int) -> CurveNet:
    """Any weights at all, sure of everything."""
    rng = np.random.default_rng(seed)
    like = default_net()
    weights = {k: rng.normal(0, 2, w.shape) for k, w in like.weights.items()}
    return CurveNet(weights, like.mean, like.spread, np.array([[[-9.0] * 4, [9.0] * 4]]))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_curves_rise_with_the_cap_and_stay_within_what_it_allows(seed: int) -> None:
    graph = gpu_graph(seed)
    found = random_net(seed).predict(graph)
    assert found.learned.all()
    assert (np.diff(found.speed, axis=1) >= 0).all()
    assert ((found.speed > 0) & (found.speed <= 1)).all()
    assert (found.power <= np.minimum(CAPS[None], graph.features[:, :1]) + 1e-12).all()
    np.testing.assert_allclose(found.energy[:, -1], 1.0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_the_order_of_nodes_and_edges_says_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = gpu_graph(seed)
    order = rng.permutation(graph.n)
    place = np.argsort(order)
    edges = place[graph.edges][:, rng.permutation(graph.edges.shape[1])]
    net = random_net(seed)
    moved = net.predict(TaskGraph(graph.features[order], edges))
    np.testing.assert_allclose(moved.speed, net.predict(graph).speed[order], atol=1e-12)


def test_numpy_evaluates_what_torch_geometric_trained() -> None:
    import torch
    from torch_geometric.nn import SAGEConv

    net, graph = random_net(3), gpu_graph(3)
    layers = []
    for layer, width in (("0", 4), ("1", 16)):
        conv = SAGEConv(width, 16).double()
        with torch.no_grad():
            conv.lin_l.weight.copy_(torch.tensor(net.weights[f"w_near_{layer}"]))
            conv.lin_l.bias.copy_(torch.tensor(net.weights[f"b_{layer}"]))
            conv.lin_r.weight.copy_(torch.tensor(net.weights[f"w_self_{layer}"]))
        layers.append(conv)
    x = torch.tensor(np.clip((graph.features - net.mean) / net.spread, -2, 2))
    with torch.no_grad():
        for conv in layers:
            x = torch.tanh(conv(x, torch.tensor(graph.edges)))
    mine = np.clip((graph.features - net.mean) / net.spread, -2, 2)
    for layer in ("0", "1"):
        near = graph.neighbour_mean(mine) @ net.weights[f"w_near_{layer}"].T
        mine = np.tanh(mine @ net.weights[f"w_self_{layer}"].T + near + net.weights[f"b_{layer}"])
    np.testing.assert_allclose(mine, x.numpy(), atol=1e-12)


def test_a_gpu_unlike_those_seen_gets_the_physical_model() -> None:
    graph = gpu_graph(1, floor=0.1)
    found = default_net().predict(graph)
    assert not found.learned.any()
    share = graph.features[:, :1]
    plain = speed(CAPS[None], share, np.minimum(IDLE_SHARE, 0.9 * share), MEMORY)
    np.testing.assert_allclose(found.speed, np.clip(plain, 0.02, 0.995), atol=1e-12)


@pytest.mark.parametrize("floor", KNOWN_FLOORS)
def test_the_shipped_weights_know_the_gpus_that_were_measured(floor: float) -> None:
    assert default_net().predict(gpu_graph(2, floor=floor)).learned.any()


def test_training_beats_the_physical_model_on_what_it_cannot_express() -> None:
    """Work that waits for its neighbours' data is slowed less by a cap; only edges tell."""
    net = fit_curve_net([generated(seed) for seed in range(12)], epochs=600)
    new = generated(99)
    found = net.predict(new.graph)
    own = found.speed[new.node, np.searchsorted(CAPS, new.cap - 1e-9)]
    share = new.graph.features[new.node, 0]
    plain = speed(new.cap, share, np.minimum(IDLE_SHARE, 0.9 * share), MEMORY)
    assert np.abs(own - new.speed).mean() < 0.7 * np.abs(plain - new.speed).mean()


def test_the_same_seed_trains_the_same_weights() -> None:
    seen = [generated(0), generated(1)]
    first, second = (fit_curve_net(seen, seed=7, epochs=5) for _ in range(2))
    np.testing.assert_array_equal(first.weights["w_out"], second.weights["w_out"])
    other = fit_curve_net(seen, seed=8, epochs=5)
    assert (other.weights["w_self_0"] != first.weights["w_self_0"]).any()


def test_learned_curves_become_the_nearest_physical_ones() -> None:
    graph = gpu_graph(5)
    found = default_net().predict(graph)
    demand, top = graph.features[:, 0] * 300.0, np.full(graph.n, 300.0)
    idle, memory = np.full(graph.n, 70.0), np.full(graph.n, 0.3)
    new_idle, new_memory = fitted_units(found, demand, top, idle, memory)
    caps = CAPS * 300.0
    held = caps[None] < demand[:, None]

    def error(i: np.ndarray, m: np.ndarray) -> np.ndarray:
        fast = speed(caps[None], demand[:, None], i[:, None], m[:, None])
        return (np.abs(fast - found.speed) * held).sum(axis=1)

    pairs = itertools.product(np.linspace(0.2, 1.0, 9), np.linspace(0.0, 0.9, 19))
    least = np.min([error(rest * idle, np.full(graph.n, m)) for rest, m in pairs], axis=0)
    assert found.learned.any()
    np.testing.assert_allclose(error(new_idle, new_memory)[found.learned], least[found.learned])
    np.testing.assert_array_equal(new_memory[~found.learned], 0.3)


def test_saved_weights_come_back(tmp_path: Path) -> None:
    net, graph = random_net(1), gpu_graph(1)
    net.save(tmp_path / "net.safetensors")
    back = CurveNet.load(tmp_path / "net.safetensors").predict(graph)
    np.testing.assert_array_equal(back.speed, net.predict(graph).speed)


def test_a_file_that_is_no_network_is_named(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    with pytest.raises(FormatError, match=r"net\.safetensors.*no saved network"):
        CurveNet.load(path)
    random_net(1).save(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(FormatError, match=r"net\.safetensors"):
        CurveNet.load(path)


@pytest.mark.parametrize(
    ("features", "edges", "named"),
    [
        ([[0.5, 0.3]], [[], []], "features"),
        ([[0.5, 0.3, 0.0, np.nan]], [[], []], r"features\[0\].send"),
        ([[-0.1, 0.3, 0.0, 0.0]], [[], []], r"features\[0\].power"),
        ([[0.5, 0.3, 0.0, 0.0]], [[0], [1]], "edges"),
    ],
)
def test_a_wrong_graph_is_refused_by_name(features: list, edges: list, named: str) -> None:
    with pytest.raises(InputError, match=named):
        TaskGraph(np.array(features), np.array(edges, dtype=float))


def test_jobs_become_a_graph() -> None:
    jobs = [
        Job(id="a", gpus=2, duration_s=100.0, power_w=800.0, bytes=1e9),
        Job(id="b", gpus=1, duration_s=10.0, power_w=200.0, after=("a",)),
    ]
    graph = job_graph(jobs, min_w=200.0, max_w=700.0)
    np.testing.assert_array_equal(graph.edges, [[0], [1]])
    np.testing.assert_allclose(graph.features[:, 0], [400 / 700, 200 / 700])
    np.testing.assert_allclose(graph.features[:, 2], cost_feature([100.0, 10.0]))
    assert 0 < graph.features[0, 3] < 1e-3
    assert graph.features[1, 3] == 0
    with pytest.raises(InputError, match=r"jobs\.c"):
        job_graph([Job(id="c", gpus=1)], min_w=200.0, max_w=700.0)


def test_a_sweep_wants_positive_shares_of_equal_length() -> None:
    graph = gpu_graph(0, n=2)
    one = np.ones(1)
    with pytest.raises(InputError, match="as many caps"):
        Sweep(graph, np.zeros(2, int), one, one, one)
    with pytest.raises(InputError, match=r"sweep\.speed"):
        Sweep(graph, np.zeros(1, int), one, np.array([np.nan]), one)
    with pytest.raises(InputError, match="at least one sweep"):
        fit_curve_net([])
