"""Collectives over equal racks: at the bound for any number of GPUs, other fabrics told apart."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.q_nvlink import (
    collective_bound,
    load_fabric,
    parse_node_link,
    plan_collective,
    simulate,
)
from qcluster.q_nvlink.collectives.logical import balanced, best_rate
from qcluster.q_nvlink.collectives.plan import _network
from qcluster.q_nvlink.collectives.stars import find_racks, rack_trees


def racks(count, each, *, planes=2, link=50.0, nic=25.0, thin=None, kind="leaf"):
    """Racks of GPUs on switch planes, a NIC a GPU, a leaf a rack (or one for all) and a spine."""
    names = [(r, i) for r in range(count) for i in range(each)]
    nodes = [{"id": f"r{r}g{i}", "kind": "gpu"} for r, i in names]
    nodes += [{"id": f"r{r}sw{j}", "kind": "nvswitch"} for r in range(count) for j in range(planes)]
    edges = [
        {"source": f"r{r}g{i}", "target": f"r{r}sw{j}", "bandwidth": link}
        for r, i in names
        for j in range(planes)
    ]
    nodes += [{"id": "spine", "kind": "ibswitch"}]
    if kind == "leaf":
        nodes += [{"id": f"leaf{r}", "kind": "ibswitch"} for r in range(count)]
        edges += [
            {
                "source": f"leaf{r}",
                "target": "spine",
                "bandwidth": thin or nic * each,
                "type": "ib",
            }
            for r in range(count)
        ]
    for r, i in names:
        target = f"leaf{r}" if kind == "leaf" else "spine"
        edges.append({"source": f"r{r}g{i}", "target": target, "bandwidth": nic, "type": "ib"})
    return parse_node_link({"nodes": nodes, "edges": edges})


def network(fabric):
    _, cap, count = _network(fabric, "allgather", None)
    return cap, count


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 4),
    st.integers(2, 5),
    st.integers(1, 3),
    st.sampled_from([10.0, 25.0, 50.0, 200.0]),
    st.sampled_from(["leaf", "spine"]),
)
def test_racks_are_at_the_bound_of_the_whole_fabric(count, each, planes, nic, kind):
    fabric = racks(count, each, planes=planes, nic=nic, kind=kind)
    for what in ("allgather", "reduce_scatter", "allreduce"):
        found = plan_collective(fabric, what)
        proof = simulate(found)
        assert proof.delivered
        assert proof.seconds_per_gb == pytest.approx(collective_bound(fabric, what))


def test_the_bound_over_merged_planes_is_that_of_all_planes():
    fabric = racks(3, 4, planes=3)
    cap, count = network(fabric)
    found = find_racks(cap, count)
    assert found is not None
    assert found.gpus.shape == (3, 4)
    one, other = best_rate(found.cap, count), best_rate(cap, count)
    assert one[0] * other[1] == other[0] * one[1]


def test_a_plan_names_the_switches_that_it_writes_as_one():
    found = plan_collective(racks(2, 3), "allgather")
    assert found.striped == {"r0sw0": ["r0sw0", "r0sw1"], "r1sw0": ["r1sw0", "r1sw1"]}
    assert found.capacity["r0g0->r0sw0"] == 100.0


def test_trees_span_everybody_over_links_that_are_there():
    cap, count = network(racks(3, 4))
    found = find_racks(cap, count)
    share = dict.fromkeys(range(count), 0.0)
    for root, part, hops in rack_trees(found):
        share[root] += part
        reached = {root}
        for a, b, path in hops:
            assert a in reached
            assert b not in reached
            reached.add(b)
            assert (path[0], path[-1]) == (a, b)
            assert all(found.cap[u, v] > 0 for u, v in pairwise(path))
        assert reached == set(range(count))
    assert all(value == pytest.approx(1.0) for value in share.values())


@pytest.mark.parametrize(
    "fabric",
    [
        racks(2, 3).degraded(factor={"r0g0->r0sw0": 0.5, "r0sw0->r0g0": 0.5}),
        racks(2, 3).degraded(factor={"r0g0->leaf0": 0.5, "leaf0->r0g0": 0.5}),
        racks(2, 3).degraded(dead=["r1g2"]),
        racks(2, 3).degraded(dead=["r1sw1"]),
    ],
)
def test_degraded_racks_go_the_general_way_and_are_at_their_bound(fabric):
    cap, count = network(fabric)
    assert find_racks(cap, count) is None
    found = plan_collective(fabric, "allgather")
    assert simulate(found).seconds_per_gb == pytest.approx(collective_bound(fabric, "allgather"))
    assert found.striped == {}


def test_links_that_are_halved_one_way_cost_what_their_switch_cannot_pass_on():
    # One host of eight GPUs and four planes. 31.5 of 32 widths come into the switches, which copy
    # nothing, so all GPUs together get no more.
    nodes = [{"id": f"g{i}", "kind": "gpu"} for i in range(8)]
    nodes += [{"id": f"nvswitch{j}", "kind": "nvswitch"} for j in range(4)]
    edges = [
        {"source": f"g{i}", "target": f"nvswitch{j}", "bandwidth": 100.0, "type": "nvlink"}
        for i in range(8)
        for j in range(4)
    ]
    whole = parse_node_link({"nodes": nodes, "edges": edges})
    halved = whole.degraded(factor={"g0->nvswitch0": 0.5})
    proof = simulate(plan_collective(halved, "allgather"))
    assert proof.delivered
    assert proof.seconds_per_gb <= 1.001 * (7 / 8 / 400) * 32 / 31.5
    assert proof.seconds_per_gb >= collective_bound(whole, "allgather") * (1 - 1e-9)
    # Reducing, everybody's part goes through that link: the cut says it all.
    proof = simulate(plan_collective(halved, "reduce_scatter"))
    assert proof.seconds_per_gb == pytest.approx(collective_bound(halved, "reduce_scatter"))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(1, 4))
def test_balanced_switches_pass_on_what_they_get(seed, gpus, switches):
    rng = np.random.default_rng(seed)
    m = gpus + switches
    cap = rng.integers(0, 9, (m, m)) * rng.integers(0, 2, (m, m))
    np.fill_diagonal(cap, 0)
    found = balanced(cap, gpus)
    assert (found <= cap).all()
    assert (found >= 0).all()
    assert (found[gpus:].sum(axis=1) == found[:, gpus:].sum(axis=0)).all()
    both = np.minimum(cap, cap.T)
    assert (balanced(both, gpus) == both).all()


def test_racks_with_too_thin_uplinks_are_still_at_their_bound():
    fabric = racks(2, 3, thin=20.0)
    found = plan_collective(fabric, "allgather")
    assert simulate(found).seconds_per_gb == pytest.approx(collective_bound(fabric, "allgather"))


def test_one_rack_and_meshes_are_no_racks(dgx1, star):
    for fabric in (dgx1, star):
        assert find_racks(*network(fabric)) is None


def test_hundreds_of_gpus_take_no_search():
    found = plan_collective(racks(4, 72, planes=18, nic=50.0), "allgather")
    proof = simulate(found, chunks=1000)
    assert proof.delivered
    # Each GPU takes in 287 of 288 parts over 950 GB/s.
    assert proof.seconds_per_gb == pytest.approx(287 / 288 / 950)
    assert proof.pipelined_s_per_gb < 1.01 * proof.seconds_per_gb


def test_a_real_cluster_of_four_hosts(data_dir):
    fabric = load_fabric(data_dir / "nvlink" / "fabrics" / "hgx_h100_x4.json")
    found = plan_collective(fabric, "allreduce")
    assert simulate(found).seconds_per_gb == pytest.approx(collective_bound(fabric, "allreduce"))
