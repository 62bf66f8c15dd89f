"""GPU choice against brute force, and the fabrics of real machines."""

from __future__ import annotations

from itertools import combinations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nvlink_cases import star_data

from qcluster.errors import Infeasible, InputError
from qcluster.q_nvlink import (
    Fabric,
    cut_bandwidth,
    load_fabric,
    parse_node_link,
    select_gpus,
)
from qcluster.q_nvlink import reference as twin
from qcluster.q_nvlink._kernels import best_cut, max_flow, neighbours, route_loads


def brute_bandwidth(fabric: Fabric, gpus: tuple) -> float:
    """k min over all cuts of B(S) / |S & G|: every subset of GPUs and switches, networkx only."""
    switches = [n.id for n in fabric.nodes if n.kind not in ("gpu", "nic")]
    graph = fabric.graph.subgraph([*gpus, *switches])
    best = np.inf
    for size in range(1, len(gpus)):
        for inside in combinations(gpus, size):
            for count in range(len(switches) + 1):
                for extra in combinations(switches, count):
                    side = {*inside, *extra}
                    cut = sum(
                        d["bandwidth_gb_s"]
                        for a, b, d in graph.edges(data=True)
                        if a in side and b not in side
                    )
                    best = min(best, cut / size)
    return len(gpus) * best


@st.composite
def fabrics(draw):
    gpus = draw(st.integers(2, 6))
    switches = draw(st.integers(0, 2))
    names = [f"g{i}" for i in range(gpus)] + [f"nvswitch{j}" for j in range(switches)]
    rates = st.sampled_from([0, 0, 25, 50, 100])
    edges = []
    for a in names:
        for b in names:
            if a != b and (rate := draw(rates)):
                edges.append({"source": a, "target": b, "bandwidth": float(rate)})
    return parse_node_link(
        {"directed": True, "nodes": [{"id": name} for name in names], "edges": edges}
    )


@settings(max_examples=60, deadline=None)
@given(fabrics(), st.integers(2, 6))
def test_choice_equals_brute_force(fabric, k):
    if k > len(fabric.gpus):
        return
    chosen = select_gpus(fabric, k)
    values = {g: brute_bandwidth(fabric, g) for g in combinations(fabric.gpus, k)}
    assert chosen.exact
    assert chosen.bandwidth_gb_s == pytest.approx(max(values.values()))
    assert values[chosen.gpus] == pytest.approx(chosen.bandwidth_gb_s)
    assert chosen.upper_bound_gb_s == pytest.approx(chosen.bandwidth_gb_s)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(0, 2))
def test_kernels_agree_with_their_twins(seed, gpus, switches):
    rng = np.random.default_rng(seed)
    m = gpus + switches
    cap = rng.integers(0, 4, (m, m)) * rng.integers(0, 2, (m, m))
    np.fill_diagonal(cap, 0)
    cap[gpus:, gpus:] = 0
    num, den, least = best_cut(cap, gpus)
    slow = twin.best_cut(cap, gpus)
    assert num * slow[1] == slow[0] * den
    assert least == slow[2]
    assert max_flow(cap, 0, m - 1)[0] == twin.max_flow(cap, 0, m - 1)
    demand = rng.random((m, m)) * (rng.random((m, m)) < 0.5)
    np.fill_diagonal(demand, 0)
    transit = np.arange(m) >= gpus
    loads = np.zeros((m, m))
    lists = (*neighbours(cap > 0), *neighbours(cap.T > 0))
    order = rng.permutation(m)
    some = demand[np.ix_(order, order)]
    if route_loads(cap.astype(float), *lists, transit, order, some, loads)[0] < 0:
        assert np.allclose(loads, twin.route_loads(cap.astype(float), transit, demand))
        balance = loads.sum(axis=1) - loads.sum(axis=0)
        assert np.allclose(balance, demand.sum(axis=1) - demand.sum(axis=0))
        assert (loads[cap == 0] == 0).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 7))
def test_max_flow_agrees_with_networkx(seed, n):
    rng = np.random.default_rng(seed)
    cap = rng.integers(0, 5, (n, n))
    np.fill_diagonal(cap, 0)
    graph = nx.DiGraph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from((a, b, {"capacity": int(cap[a, b])}) for a, b in np.argwhere(cap))
    flow, side = max_flow(cap, 0, n - 1)
    assert flow == nx.maximum_flow_value(graph, 0, n - 1)
    assert cap[np.ix_(side, ~side)].sum() == flow


def test_dgx1_published_subsets(dgx1):
    # Measured over all subsets of the real matrix: best of 4 is 133 GB/s, best of 5 is 94.
    assert select_gpus(dgx1, 4).bandwidth_gb_s == pytest.approx(400 / 3)
    assert select_gpus(dgx1, 5).bandwidth_gb_s == pytest.approx(93.75)
    assert select_gpus(dgx1, 2).gpus in {("gpu0", "gpu1"), ("gpu0", "gpu2"), ("gpu1", "gpu3")}


def test_flow_and_enumeration_agree_on_every_path():
    data = star_data(14, switches=3)
    fabric = parse_node_link(data)
    assert select_gpus(fabric, 14).bandwidth_gb_s == pytest.approx(14 / 13 * 150)
    assert select_gpus(fabric, 10).bandwidth_gb_s == pytest.approx(10 / 9 * 150)


def test_third_gpu_outside_the_pair_costs_an_order_of_magnitude(data_dir):
    fabric = load_fabric(data_dir / "nvlink" / "topo_smi" / "a100_8gpu_nvlink_pairs.txt")
    two, three = select_gpus(fabric, 2), select_gpus(fabric, 3)
    assert two.nvlink
    assert not three.nvlink
    assert two.effective_gb_s > 10 * three.effective_gb_s
    for k in (2, 4, 6, 8):
        chosen = set(select_gpus(fabric, k).gpus)
        pairs = [{f"GPU{2 * i}", f"GPU{2 * i + 1}"} for i in range(4)]
        assert all(len(chosen & pair) in (0, 2) for pair in pairs)


def test_keeps_what_is_left_whole(dgx1):
    # A single GPU costs bandwidth to nobody it need not: with one quad broken, take from there.
    chosen = select_gpus(dgx1, 1, busy=["gpu4", "gpu5", "gpu6"])
    assert chosen.gpus == ("gpu7",)
    star = parse_node_link(star_data(12))
    used = ["g0", "g1", "g2", "g4"]
    assert select_gpus(star, 1, busy=used).gpus == ("g3",)
    assert select_gpus(star, 3, busy=used).gpus == ("g5", "g6", "g7")


def test_degraded_and_dead_links_are_honoured(dgx1):
    best = select_gpus(dgx1, 4)
    a, b = best.gpus[0], best.gpus[1]
    worse = dgx1.degraded(factor={f"{a}->{b}": 0.0, f"{b}->{a}": 0.0})
    assert cut_bandwidth(worse, best.gpus) < best.bandwidth_gb_s
    assert select_gpus(worse, 4).bandwidth_gb_s >= cut_bandwidth(worse, best.gpus)
    gone = dgx1.degraded(dead=["gpu0"])
    assert "gpu0" not in select_gpus(gone, 7).gpus


def test_large_irregular_fabric_has_a_bound():
    graph = nx.random_regular_graph(4, 30, seed=3)
    data = {
        "nodes": [{"id": int(v)} for v in graph.nodes],
        "edges": [
            {"source": int(a), "target": int(b), "bandwidth": float(25 * (1 + (a * b) % 3))}
            for a, b in graph.edges
        ],
    }
    chosen = select_gpus(parse_node_link(data), 12)
    assert len(chosen.gpus) == 12
    assert 0 < chosen.bandwidth_gb_s <= chosen.upper_bound_gb_s


def test_rack_of_72_is_chosen_exactly(data_dir):
    fabric = load_fabric(data_dir / "nvlink" / "fabrics" / "gb200_nvl72.json")
    chosen = select_gpus(fabric, 36)
    assert chosen.exact
    assert chosen.bandwidth_gb_s == pytest.approx(36 / 35 * 900)


@pytest.mark.parametrize("k", [0, -1, True, 2.0, "4", None])
def test_bad_k(dgx1, k):
    with pytest.raises(InputError, match="'k'"):
        select_gpus(dgx1, k)


def test_too_many_and_unknown(dgx1):
    with pytest.raises(Infeasible, match="6 are free"):
        select_gpus(dgx1, 7, busy=["gpu0", "gpu1"])
    with pytest.raises(InputError, match="gpu99"):
        select_gpus(dgx1, 2, busy=["gpu99"])
    with pytest.raises(InputError, match="gpu99"):
        cut_bandwidth(dgx1, ["gpu0", "gpu99"])
    with pytest.raises(InputError, match="each once"):
        cut_bandwidth(dgx1, ["gpu0", "gpu0"])
