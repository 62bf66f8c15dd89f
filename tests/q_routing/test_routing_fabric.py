"""Fabric and trace in placements: slow links are spared, balance and fan-out stay, limits hold."""

import itertools
from dataclasses import dataclass

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import InputError
from qcluster.q_routing import dispatch, place_experts
from qcluster.q_routing._traffic_kernels import cover_layer, exchange, hops, pull_back, visited
from qcluster.q_routing.fabric import alike, distances
from qcluster.q_routing.formats import read_trace
from qcluster.q_routing.traffic import crossing, fan_out

ALIKE = np.empty((0, 0))


@dataclass
class Links:
    """The least that ``fabric`` asks for."""

    gpus: list
    graph: nx.DiGraph


def two_nodes(order, per=4, inside=450.0, across=50.0):
    """GPUs ``order`` on two switches, which a slower link joins; ids say which node."""
    graph = nx.DiGraph()
    for g in order:
        for a, b in ((g, f"s{g // per}"), (f"s{g // per}", g)):
            graph.add_edge(a, b, bandwidth_gb_s=inside)
    for a, b in (("s0", "s1"), ("s1", "s0")):
        graph.add_edge(a, b, bandwidth_gb_s=across)
    return Links(list(order), graph)


def clustered(tokens=400, layers=2, experts=32, seed=0):
    """Picks of 4 from one of 4 clusters of 8 experts that lie scattered, now and then outside."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(experts).reshape(4, 8)
    rows = [[rng.choice(order[c], 4, replace=False) for _ in range(layers)]
            for c in rng.integers(0, 4, tokens)]  # fmt: skip
    return np.array(rows)


def count(picks, experts=32):
    return np.stack([np.bincount(p.ravel(), minlength=experts) for p in picks.swapaxes(0, 1)])


def nodes_visited(gpus, node):
    return np.mean([len(set(node[row])) for token in gpus for row in token])


def test_tokens_cross_the_slow_link_less_at_equal_balance_and_fan_out():
    picks = clustered()
    order = [0, 4, 1, 5, 2, 6, 3, 7]
    node = np.array(order) // 4
    options = {"num_slots": 40, "num_gpus": 8, "trace": picks}
    plain = place_experts(count(picks), **options)
    near = place_experts(count(picks), **options, fabric=two_nodes(order))
    served = [dispatch(p, picks) for p in (plain, near)]
    served.append(dispatch(near, picks, fabric=two_nodes(order)))
    fan, crossed, even = (
        [fan_out(gpus) for gpus in served],
        [nodes_visited(gpus, node) for gpus in served],
        [np.bincount(gpus.ravel(), minlength=8).max() / (gpus.size / 8) for gpus in served],
    )
    assert max(fan[1:]) < 1.1 * fan[0]
    assert crossed[1] < 0.85 * crossed[0]
    assert crossed[2] <= crossed[1]
    assert max(even[1:]) <= even[0]


def test_a_fabric_weighs_a_node_boundary_among_real_picks(data_dir):
    trace = read_trace(data_dir / "routing" / "dsv2lite_intent.npz")[:, :4]
    fit, other = trace[:4000], trace[4000:]
    order = list(range(16))
    node, links = np.array(order) // 8, two_nodes(order, per=8)
    options = {"num_slots": 96, "num_gpus": 16, "trace": fit}
    plain = dispatch(place_experts(count(fit, 64), **options), other)
    near = place_experts(count(fit, 64), **options, fabric=links)
    served = dispatch(near, other, fabric=links)
    assert nodes_visited(served, node) < 0.88 * nodes_visited(plain, node)
    assert fan_out(served) < 1.06 * fan_out(plain)
    load = np.stack([np.bincount(served[:, x].ravel(), minlength=16) for x in range(4)])
    assert load.mean(axis=1).sum() / load.max(axis=1).sum() > 0.93


def test_without_a_trace_copies_are_spread_over_nodes():
    load = np.ones((3, 16)) * 10
    load[:, :8] = 20
    order = [0, 4, 1, 5, 2, 6, 3, 7]
    node = np.array(order) // 4
    options = {"num_slots": 24, "num_gpus": 8}
    found = [place_experts(load, **options, fabric=f) for f in (None, two_nodes(order))]
    assert found[1].balancedness == found[0].balancedness

    def both(placement):
        on = node[placement.gpu_of_slot]
        return sum(len(set(on[row == e])) == 2 for row in placement.slots for e in range(8))

    assert both(found[1]) == 24
    assert both(found[0]) <= 24


def test_distances_take_the_widest_path():
    d = distances(two_nodes(range(8)), 8)
    assert d[0, 1] == d[4, 7] == 1.0
    assert d[0, 4] == pytest.approx(9.0)
    assert (np.diag(d) == 0).all()
    line = nx.DiGraph()
    for a, b, bandwidth in ((0, 1, 100), (1, 2, 25)):
        for pair in ((a, b), (b, a)):
            line.add_edge(*pair, bandwidth_gb_s=bandwidth)
    assert distances(Links([0, 1, 2], line), 3)[0, 2] == pytest.approx(4.0)


def test_the_fabric_of_nvlink_plans_fits():
    from qcluster.q_nvlink.fabric import Fabric, FabricLink, FabricNode

    nodes = [FabricNode(id=g) for g in "abcd"]
    pairs = [("a", "b", 300.0), ("c", "d", 300.0), ("b", "c", 30.0)]
    links = [
        FabricLink(source=x, target=y, bandwidth_gb_s=bandwidth, effective_gb_s=0.0)
        for a, b, bandwidth in pairs
        for x, y in ((a, b), (b, a))
    ]
    fabric = Fabric.build(nodes, links)
    assert distances(fabric, 4)[0].tolist() == [0.0, 1.0, 10.0, 10.0]
    placement = place_experts(np.ones((1, 8)), num_slots=8, num_gpus=4, fabric=fabric)
    assert placement.balancedness == 1.0


def test_a_uniform_fabric_changes_nothing_and_a_replan_keeps_its_names():
    picks = clustered()
    options = {"num_slots": 40, "num_gpus": 8, "trace": picks}
    plain = place_experts(count(picks), **options)
    flat = place_experts(count(picks), **options, fabric=two_nodes(range(8), across=450.0))
    assert np.array_equal(plain.slots, flat.slots)
    nodes = two_nodes([0, 4, 1, 5, 2, 6, 3, 7])
    first = place_experts(count(picks), **options, fabric=nodes)
    again = place_experts(count(picks), **options, previous=first, fabric=nodes)
    assert len(again.moves) == 0


def test_gpus_are_alike_where_all_ways_are_as_long():
    d = distances(two_nodes([0, 4, 1, 5]), 4)
    kind = np.zeros(4, np.int64)
    assert alike(d, kind).tolist() == [0, 1, 0, 1]
    assert alike(d, np.array([0, 0, 1, 0])).tolist() == [0, 1, 2, 1]
    assert alike(1 - np.eye(4), kind).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("fabric", "message"),
    [
        (object(), "gpus and graph"),
        (two_nodes(range(6)), "has 6 GPUs"),
        (two_nodes(range(8), inside=float("nan")), "bandwidth nan"),
        (two_nodes(range(8), across=-1.0), "bandwidth -1.0"),
        (two_nodes(range(8), across=True), "bandwidth True"),
        (Links(list(range(8)), nx.DiGraph()), "no path leads from '0' to '1'"),
    ],
    ids=["no fabric", "too few GPUs", "nan", "negative", "bool", "disconnected"],
)
def test_bad_fabrics_are_named(fabric, message):
    with pytest.raises(InputError, match=message) as raised:
        place_experts(np.ones((1, 8)), num_slots=8, num_gpus=8, fabric=fabric)
    assert raised.value.field == "fabric"


@given(st.integers(0, 10_000), st.integers(3, 6))
@settings(max_examples=30, deadline=None)
def test_exchanges_only_help_and_the_books_are_right(seed, gpus):
    rng = np.random.default_rng(seed)
    flow, distance = rng.random((2, gpus, gpus))
    flow, distance = flow + flow.T, distance + distance.T
    np.fill_diagonal(distance, 0)
    kind, name = rng.integers(0, 2, gpus), np.arange(gpus)
    linear = rng.random((gpus, gpus))
    fell = exchange(flow, distance, linear, kind, name)

    def cost(of):
        return (flow * distance[np.ix_(of, of)]).sum() + linear[np.arange(gpus), of].sum()

    assert sorted(name) == list(range(gpus))
    assert (kind[name] == kind).all()
    assert cost(np.arange(gpus)) - cost(name) == pytest.approx(fell, abs=1e-9)
    for i, j in itertools.combinations(range(gpus), 2):
        if kind[i] == kind[j]:
            other = name.copy()
            other[i], other[j] = name[j], name[i]
            assert cost(other) >= cost(name) - 1e-6


def test_visited_and_hops_twins():
    rng = np.random.default_rng(1)
    on = np.eye(4, dtype=bool)[rng.integers(0, 4, 12)]
    home = on.argmax(axis=1)
    layers = [np.array([rng.choice(12, 3, replace=False) for _ in range(50)]) for _ in range(2)]
    sets = [[set(home[row].tolist()) for row in picks] for picks in layers]
    found = [visited(picks, on, np.ones(4), ALIKE) for picks in layers]
    for seen, wanted in zip(found, sets, strict=True):
        assert [set(np.flatnonzero(row).tolist()) for row in seen] == wanted
    wanted = np.zeros((4, 4))
    for a, b in zip(*sets, strict=True):
        for i, j in itertools.product(a, b):
            wanted[i, j] += 1
    assert np.array_equal(hops(*found), wanted)


def test_picks_that_are_none_are_not_served():
    picks, on = np.array([[0, -1, 1], [-1, -1, -1]]), np.eye(2, dtype=bool)
    served, load = np.empty_like(picks), np.zeros(2)
    assert cover_layer(picks, on, np.ones(2), ALIKE, 1.0, 0.0, load, served) == 2
    assert served.tolist() == [[0, -1, 1], [-1, -1, -1]]
    assert load.tolist() == [1, 1]


def chained(tokens=400, layers=4, experts=32, seed=0):
    """As ``clustered``, but a token's cluster is the same in all layers, clusters are not."""
    rng = np.random.default_rng(seed)
    order = [rng.permutation(experts).reshape(4, 8) for _ in range(layers)]
    cluster = rng.integers(0, 4, tokens)
    return np.array([[rng.choice(o[c], 4, replace=False) for o in order] for c in cluster])


def test_tokens_stay_where_the_layer_before_served_them():
    fit, other = chained()[:200], chained()[200:]
    load = count(fit)
    plain = place_experts(load, num_slots=40, num_gpus=8)
    near = place_experts(load, num_slots=40, num_gpus=8, trace=fit)
    assert crossing(dispatch(near, other)) < 0.6 * crossing(dispatch(plain, other))
    assert near.balancedness <= near.upper_bound


def test_crossing_counts_each_new_gpu_once():
    # Layer 0 on GPUs {0, 1}; layer 1 on {1, 2}: one of two visits is new.
    assert crossing([[[0, 1, 0], [1, 2, 2]]]) == pytest.approx(0.5)
    assert crossing([[[0, 0]]]) == 0.0


@given(st.integers(0, 1000), st.floats(0, 1))
@settings(max_examples=10, deadline=None)
def test_a_trace_keeps_to_the_move_budget(seed, share):
    picks = clustered(200, seed=seed)
    options = {"num_slots": 40, "num_gpus": 8}
    first = place_experts(count(clustered(200, seed=seed + 1)), **options)
    second = place_experts(count(picks), **options, trace=picks, previous=first, max_moved=share)
    assert len(second.moves) <= int(share * first.slots.size)
    full = place_experts(count(picks), **options, trace=picks, previous=first, max_moved=1.0)
    spread = [fan_out(dispatch(p, picks)) for p in (full, first)]
    assert spread[0] < spread[1]


def test_a_trace_keeps_groups_on_their_nodes_and_still_gathers():
    picks = clustered()
    options = {"num_slots": 40, "num_gpus": 8, "num_nodes": 2, "num_groups": 8}
    options["mode"] = "hierarchical"
    plain = place_experts(count(picks), **options)
    placement = place_experts(count(picks), **options, trace=picks)
    node = placement.gpu_of_slot // 4
    for row in placement.slots:
        for group in range(8):
            assert len(set(node[row // 4 == group])) == 1
    assert placement.balancedness <= placement.upper_bound
    assert fan_out(dispatch(placement, picks)) < fan_out(dispatch(plain, picks))
    again = place_experts(count(picks), **options, trace=picks, previous=plain, max_moved=0.5)
    assert len(again.moves) <= 0.5 * plain.slots.size


def test_covers_prefer_near_gpus_and_count_their_ways():
    # Expert 1 stands on GPU 1, next to GPU 0, and on GPU 2, far away and idle.
    on = np.array([[1, 0, 0], [0, 1, 1]], dtype=bool)
    far = np.array([[0.0, 1, 4], [1, 0, 4], [4, 4, 0]])
    picks, served, load = np.array([[0, 1]] * 4), np.empty((4, 2), np.int64), np.zeros(3)
    cost = cover_layer(picks, on, np.ones(3), far, 0.0, 0.0, load, served)
    assert served.tolist() == [[0, 1]] * 4
    assert cost == pytest.approx(8.0)
    only_far = on.copy()
    only_far[1, 1] = False
    cost = cover_layer(picks, only_far, np.ones(3), far, 0.0, 0.0, np.zeros(3), served)
    assert cost == pytest.approx(4 * (1 + 4))


def test_pull_back_twin():
    rng = np.random.default_rng(2)
    picks = np.array([rng.choice(6, 2, replace=False) for _ in range(30)])
    before, distance = rng.random((30, 4)) < 0.5, rng.random((4, 4))
    wanted = np.zeros((6, 4))
    for row, served in zip(picks, before, strict=True):
        if served.any():
            wanted[row] += distance[served].min(axis=0)
    assert pull_back(picks, before, distance, 6) == pytest.approx(wanted)
