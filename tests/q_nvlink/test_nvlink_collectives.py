"""Collectives: at their bound, on any fabric, and every byte arrives."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations, pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nvlink_cases import star_data

from qcluster.errors import Infeasible, InputError
from qcluster.q_nvlink import (
    Collective,
    collective_bound,
    load_fabric,
    parse_node_link,
    plan_collective,
    simulate,
)
from qcluster.q_nvlink.collectives.packing import pack_trees


def brute_bound(fabric) -> float:
    """max |S & GPUs| / B(S) over every subset of nodes that leaves out a GPU; seconds for 1 GB."""
    graph, gpus = fabric.graph, set(fabric.gpus)
    worst = 0.0
    for size in range(1, len(graph)):
        for inside in combinations(graph.nodes, size):
            side = set(inside)
            if side & gpus and gpus - side:
                cut = sum(
                    d["bandwidth_gb_s"]
                    for a, b, d in graph.edges(data=True)
                    if a in side and b not in side
                )
                worst = max(worst, len(side & gpus) / cut if cut else np.inf)
    return worst / len(gpus)


def check(fabric, collective: Collective) -> None:
    proof = simulate(collective)
    assert proof.delivered
    assert proof.seconds_per_gb == pytest.approx(collective.seconds_per_gb)
    assert collective.seconds_per_gb == pytest.approx(collective.lower_bound_per_gb)
    for tree in [*collective.gather, *collective.reduce]:
        for a, b, path in tree.hops:
            assert (path[0], path[-1]) == (a, b)
            assert all(fabric.graph.has_edge(x, y) for x, y in pairwise(path))
            assert not set(path[1:-1]) & set(fabric.gpus)


@st.composite
def joined_fabrics(draw):
    gpus, switches = draw(st.integers(2, 5)), draw(st.integers(0, 2))
    names = [f"g{i}" for i in range(gpus)] + [f"nvswitch{j}" for j in range(switches)]
    rates = st.sampled_from([0, 0, 25, 50])
    edges = [
        {"source": a, "target": b, "bandwidth": float(rate)}
        for a in names
        for b in names
        if a < b and (rate := draw(rates))
    ]
    edges += [
        {"source": f"g{i}", "target": f"g{i + 1}", "bandwidth": 10.0} for i in range(gpus - 1)
    ]
    return parse_node_link({"nodes": [{"id": name} for name in names], "edges": edges})


@settings(max_examples=60, deadline=None)
@given(joined_fabrics())
def test_any_fabric_is_served_at_its_min_cut(fabric):
    found = plan_collective(fabric, "allgather")
    check(fabric, found)
    assert found.lower_bound_per_gb == pytest.approx(brute_bound(fabric))


@pytest.mark.parametrize("kind", ["allgather", "reduce_scatter", "allreduce"])
def test_kinds_on_a_mesh(dgx1, kind):
    found = plan_collective(dgx1, kind)
    check(dgx1, found)
    once = 1 / (1200 / 7)  # all-gather at 171.4 GB/s by the cut around one GPU
    assert found.seconds_per_gb == pytest.approx(2 * once if kind == "allreduce" else once)
    assert collective_bound(dgx1, kind) == pytest.approx(found.seconds_per_gb)
    assert Collective.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_degraded_and_dead_links(dgx1):
    for factor in (0.0, 0.5):
        worse = dgx1.degraded(factor={"gpu0->gpu1": factor, "gpu1->gpu0": factor})
        found = plan_collective(worse, "allreduce")
        check(worse, found)
        assert found.bandwidth_gb_s < plan_collective(dgx1, "allreduce").bandwidth_gb_s


def test_one_way_links_reduce_and_gather_differ():
    edges = [(0, 1, 10.0), (1, 2, 20.0), (2, 0, 30.0), (0, 2, 5.0)]
    data = {
        "directed": True,
        "nodes": [{"id": i} for i in range(3)],
        "edges": [{"source": a, "target": b, "bandwidth": c} for a, b, c in edges],
    }
    fabric = parse_node_link(data)
    for kind in ("allgather", "reduce_scatter", "allreduce"):
        check(fabric, plan_collective(fabric, kind))


def test_real_fabrics_reach_ratio_one(data_dir):
    for name in ("dgx1_v100", "dgx_a100", "hgx_h100", "pcie_8gpu"):
        fabric = load_fabric(data_dir / "nvlink" / "fabrics" / f"{name}.json")
        for kind in ("allgather", "reduce_scatter", "allreduce"):
            check(fabric, plan_collective(fabric, kind))
    for file in (data_dir / "nvlink" / "topo_smi").glob("*.txt"):
        fabric = load_fabric(file)
        check(fabric, plan_collective(fabric, "allgather")) if len(fabric.gpus) > 1 else None


def test_part_of_the_gpus(dgx1):
    found = plan_collective(dgx1, "allgather", gpus=["gpu0", "gpu1", "gpu2", "gpu3"])
    assert found.bandwidth_gb_s == pytest.approx(400 / 3)
    check(dgx1.degraded(dead=["gpu4", "gpu5", "gpu6", "gpu7"]), found)
    assert plan_collective(dgx1, "allreduce", gpus=["gpu0"]).seconds_per_gb == 0.0


def test_simulation_sees_what_is_missing(dgx1):
    found = plan_collective(dgx1, "allgather")
    assert not simulate(replace(found, gather=found.gather[1:])).delivered
    tree = found.gather[0]
    late = replace(tree, hops=tree.hops[::-1])
    assert not simulate(replace(found, gather=[late, *found.gather[1:]])).delivered
    slow = {link: rate / 2 for link, rate in found.capacity.items()}
    assert simulate(replace(found, capacity=slow)).seconds_per_gb > found.seconds_per_gb


def test_more_chunks_cost_less_depth(dgx1):
    found = plan_collective(dgx1, "allgather")
    few, many = simulate(found, chunks=4), simulate(found, chunks=1000)
    assert few.pipelined_s_per_gb > many.pipelined_s_per_gb > many.seconds_per_gb
    assert many.pipelined_s_per_gb < 1.01 * found.lower_bound_per_gb


def test_packing_within_capacity():
    rng = np.random.default_rng(3)
    for _ in range(20):
        n = int(rng.integers(2, 6))
        cap = rng.integers(1, 4, (n, n)) * n
        np.fill_diagonal(cap, 0)
        used = np.zeros_like(cap)
        batches = pack_trees(cap, 1)
        for batch in batches:
            tree = nx.DiGraph(batch.edges)
            assert nx.is_arborescence(tree)
            for edge in batch.edges:
                used[edge] += batch.count
        assert (used <= cap).all()
        assert sum(b.count for b in batches) == n


def test_bad_questions(dgx1):
    with pytest.raises(InputError, match="allgather"):
        plan_collective(dgx1, "broadcast")
    with pytest.raises(InputError, match="gpu99"):
        plan_collective(dgx1, "allgather", gpus=["gpu99"])
    with pytest.raises(InputError, match="each once"):
        plan_collective(dgx1, "allgather", gpus=[])
    with pytest.raises(Infeasible, match="reached"):
        plan_collective(dgx1, "allgather", gpus=["gpu0", "gpu5"])


def test_star_of_many_is_direct():
    fabric = parse_node_link(star_data(12, switches=1))
    found = plan_collective(fabric, "allgather")
    check(fabric, found)
    assert found.bandwidth_gb_s == pytest.approx(12 / 11 * 50)
