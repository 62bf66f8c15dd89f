"""All-to-all: exact on one tier, near its bound on two, verified byte by byte."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qcluster.errors import Infeasible, InputError, SolverFailed
from qcluster.q_nvlink import load_fabric, parse_node_link, schedule_all_to_all
from qcluster.q_nvlink.alltoall import Schedule, reference
from qcluster.q_nvlink.alltoall._lane_kernels import spread_block
from qcluster.q_nvlink.alltoall.birkhoff import (
    check_traffic,
    matchings,
    port_bound,
    verify_matchings,
)
from qcluster.q_nvlink.alltoall.domains import Domains
from qcluster.q_nvlink.alltoall.tiers import schedule_tiers
from qcluster.q_nvlink.alltoall.verify import verify_timed


def pod(domains: int, gpus: int, nic: float = 50.0, nvlink: float = 450.0):
    """Domains of GPUs on an NVSwitch each, with a NIC a GPU on one spine."""
    names = [(s, g) for s in range(domains) for g in range(gpus)]
    nodes = [{"id": f"h{s}g{g}", "kind": "gpu", "host": f"h{s}"} for s, g in names]
    nodes += [{"id": f"sw{s}", "kind": "nvswitch"} for s in range(domains)]
    nodes += [{"id": "spine", "kind": "ibswitch"}]
    edges = [{"source": f"h{s}g{g}", "target": f"sw{s}", "bandwidth": nvlink} for s, g in names]
    edges += [
        {"source": f"h{s}g{g}", "target": "spine", "bandwidth": nic, "type": "ib"}
        for s, g in names
        if nic
    ]
    return parse_node_link({"nodes": nodes, "edges": edges})


def skewed(kind: str, n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "uniform":
        return np.full((n, n), 10**6)
    if kind == "random":
        return rng.integers(0, 10**7, (n, n))
    if kind == "zipf":
        return (1e9 * rng.random((n, n)) / (1 + rng.permutation(n))[None, :]).astype(np.int64)
    return (1e6 * rng.pareto(1.2, (n, n))).astype(np.int64)


KINDS = ["uniform", "random", "zipf", "pareto"]
small = st.integers(0, 7).flatmap(lambda n: arrays(np.int64, (n, n), elements=st.integers(0, 9)))


@settings(max_examples=150, deadline=None)
@given(small)
def test_one_tier_is_exact_for_every_matrix(traffic):
    schedule = schedule_all_to_all(traffic)
    n = len(traffic)
    off = traffic * (1 - np.eye(n, dtype=np.int64))
    busiest = max([*off.sum(axis=0), *off.sum(axis=1), 0])
    assert schedule.makespan == schedule.lower_bound == busiest
    assert sum(duration for _, duration in schedule.rounds) == busiest
    sent = np.zeros_like(off)
    for target, duration in schedule.rounds:
        assert duration > 0
        busy = [j for j in target if j >= 0]
        assert len(set(busy)) == len(busy)
        for i, j in enumerate(target):
            if j >= 0:
                sent[i, j] += duration
    assert (sent == off).all()


@settings(max_examples=100, deadline=None)
@given(small)
def test_few_rounds_carry_everything_in_the_same_time(traffic):
    off = check_traffic(traffic)
    found = matchings(off, few=True)
    verify_matchings(off, found, few=True)
    assert found.length == port_bound(off)


@pytest.mark.parametrize("n", [8, 32, 72])
@pytest.mark.parametrize("kind", KINDS)
def test_large_matrices_are_exact_and_few_rounds_are_fewer(n, kind):
    traffic = check_traffic(skewed(kind, n))
    exact, few = matchings(traffic), matchings(traffic, few=True)
    verify_matchings(traffic, exact)
    verify_matchings(traffic, few, few=True)
    assert exact.length == few.length == port_bound(traffic)
    assert len(few.duration) <= len(exact.duration)
    if kind == "uniform":
        assert len(exact.duration) == n - 1  # König


@settings(max_examples=40, deadline=None)
@given(small)
def test_the_twin_decomposes_alike(traffic):
    off = check_traffic(traffic)
    from qcluster.q_nvlink.alltoall.birkhoff import _padding

    length = port_bound(off)
    idle = _padding(off, length)
    assert ((off + idle).sum(axis=0) == length).all()
    assert ((off + idle).sum(axis=1) == length).all()
    slow = reference.decompose(off, idle)
    assert sum(d for _, d in slow) == length == matchings(off).length


def test_barrier_rounds_are_worse_on_skew():
    schedule = schedule_all_to_all(skewed("pareto", 16))
    assert schedule.baselines["spread-out"] > 1.1 * schedule.makespan


@pytest.mark.parametrize("domains", [2, 3, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_two_tiers_stay_near_their_bound(domains, kind):
    fabric = pod(domains, 8)
    traffic = check_traffic(skewed(kind, 8 * domains, seed=domains))
    timed = schedule_tiers(traffic, fabric)
    verify_timed(traffic, fabric, timed)
    across = traffic.reshape(domains, 8, domains, 8).sum(axis=(1, 3))
    np.fill_diagonal(across, 0)
    nic_bound = max(across.sum(axis=0).max(), across.sum(axis=1).max()) / (8 * 50e9)
    assert timed.lower_bound_s >= nic_bound * (1 - 1e-9)
    inside_heavy = timed.lower_bound_s > nic_bound * 1.0001
    assert timed.makespan_s <= timed.lower_bound_s * (1.15 if inside_heavy else 1.02)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 4))
def test_two_tiers_deliver_anything(seed, domains, gpus):
    rng = np.random.default_rng(seed)
    n = domains * gpus
    traffic = check_traffic(rng.integers(0, 50, (n, n)) * rng.integers(0, 2, (n, n)))
    fabric = pod(domains, gpus)
    timed = schedule_tiers(traffic, fabric)
    verify_timed(traffic, fabric, timed)
    assert timed.makespan_s >= timed.lower_bound_s


def test_real_fabrics(data_dir):
    for file in sorted((data_dir / "nvlink" / "fabrics").glob("*.json")):
        fabric = load_fabric(file)
        traffic = check_traffic(skewed("random", len(fabric.gpus)))
        timed = schedule_tiers(traffic, fabric)
        verify_timed(traffic, fabric, timed)
        if file.stem in ("dgx_a100", "hgx_h100", "gb200_nvl72"):
            assert timed.makespan_s == pytest.approx(timed.lower_bound_s, rel=1e-12)
        if file.stem == "hgx_h100_x4":
            assert timed.makespan_s <= 1.02 * timed.lower_bound_s


def test_degraded_nic_and_unequal_domains():
    fabric = pod(2, 4).degraded(dead=["h1g3"], factor={"h0g0->spine": 0.5, "spine->h0g0": 0.5})
    traffic = check_traffic(skewed("random", 7))
    timed = schedule_tiers(traffic, fabric)
    verify_timed(traffic, fabric, timed)


def test_schedule_lists_transfers_with_relays_and_round_trips():
    fabric = pod(2, 2)
    traffic = np.array([[0, 5, 100, 3], [1, 0, 0, 0], [0, 0, 0, 7], [40, 0, 2, 0]])
    schedule = schedule_all_to_all(traffic, fabric=fabric)
    sent = {}
    for start, duration, source, target, via, volume in schedule.transfers:
        sent[source, target] = sent.get((source, target), 0) + volume
        assert start >= 0
        assert start + duration <= schedule.makespan_s * (1 + 1e-9)
        assert source not in via
        assert target not in via
    names = fabric.gpus
    assert sent == {(names[i], names[j]): int(traffic[i, j]) for i, j in np.argwhere(traffic)}
    assert schedule.tiers == 2
    again = Schedule.from_dict(json.loads(json.dumps(schedule.to_dict())))
    assert again.to_dict() == schedule.to_dict()


def test_nothing_to_send_takes_no_time():
    assert schedule_all_to_all(np.zeros((3, 3), dtype=int)).rounds == []
    assert schedule_all_to_all(np.zeros((0, 0), dtype=int)).makespan == 0
    assert schedule_all_to_all(np.diag([5, 6])).makespan == 0
    empty = schedule_all_to_all(np.zeros((4, 4), dtype=int), fabric=pod(2, 2))
    assert empty.makespan_s == empty.lower_bound_s == 0.0


def test_verifier_sees_what_is_missing():
    fabric = pod(2, 2)
    traffic = check_traffic(skewed("random", 4))
    timed = schedule_tiers(traffic, fabric)
    with pytest.raises(SolverFailed, match="bytes go from"):
        verify_timed(traffic + 1 - np.eye(4, dtype=np.int64), fabric, timed)
    fast = replace(timed, windows=timed.windows / 2, makespan_s=timed.makespan_s / 2)
    with pytest.raises(SolverFailed, match="more than it can"):
        verify_timed(traffic, fabric, fast)
    with pytest.raises(SolverFailed, match="add up"):
        verify_timed(traffic, fabric, replace(timed, makespan_s=1.0))


def test_domains_without_network_are_refused():
    with pytest.raises(Infeasible, match="nothing joins"):
        schedule_all_to_all(skewed("uniform", 4), fabric=pod(2, 2, nic=0.0))


@pytest.mark.parametrize(
    ("traffic", "text"),
    [
        ([[0, -1], [0, 0]], r"traffic\[0\]\[1\].*at least 0"),
        ([[0, 1.5], [0, 0]], "whole"),
        ([[0, float("nan")], [0, 0]], "finite"),
        ([[0, float("inf")], [0, 0]], "finite"),
        ([[0, 1, 2], [0, 0, 1]], "shape"),
        ([[0, 1], [0]], "matrix"),
        ([[True, False], [False, True]], "whole numbers"),
        ("abc", "whole numbers"),
        ([[0, 2**62], [0, 0]], "2\\^62"),
        ([], "shape"),
    ],
)
def test_bad_traffic(traffic, text):
    with pytest.raises(InputError, match=text):
        schedule_all_to_all(traffic)


def test_traffic_must_fit_the_fabric():
    with pytest.raises(InputError, match="4 GPUs"):
        schedule_all_to_all(np.ones((3, 3), dtype=int), fabric=pod(2, 2))
    with pytest.raises(InputError, match="Fabric"):
        schedule_all_to_all(np.ones((3, 3), dtype=int), fabric={"nodes": []})


@pytest.mark.parametrize("volume", [3 * 10**7, 10**8, 10**9])
def test_one_pair_inside_a_domain_may_use_its_nics_too(volume):
    fabric = pod(4, 8)
    traffic = skewed("random", 32) // 10
    traffic[0, 1] = volume
    traffic = check_traffic(traffic)
    timed = schedule_tiers(traffic, fabric)
    verify_timed(traffic, fabric, timed)
    assert timed.makespan_s <= 1.03 * timed.lower_bound_s
    if volume == 10**9:
        assert "NICs" in timed.notes[0]


def test_rails_that_do_not_meet_are_paired_side_by_side():
    names = [(s, g) for s in range(3) for g in range(2)]
    nodes = [{"id": f"h{s}g{g}", "kind": "gpu"} for s, g in names]
    nodes += [{"id": f"sw{s}", "kind": "nvswitch"} for s in range(3)]
    nodes += [{"id": f"rail{g}", "kind": "ibswitch"} for g in range(2)]
    edges = [{"source": f"h{s}g{g}", "target": f"sw{s}", "bandwidth": 450.0} for s, g in names]
    edges += [
        {"source": f"h{s}g{g}", "target": f"rail{g}", "bandwidth": 50.0, "type": "ib"}
        for s, g in names
    ]
    fabric = parse_node_link({"nodes": nodes, "edges": edges})
    assert Domains.of_fabric(fabric).paired
    assert not Domains.of_fabric(pod(3, 2)).paired
    traffic = check_traffic(skewed("zipf", 6))
    timed = schedule_tiers(traffic, fabric)
    verify_timed(traffic, fabric, timed)
    across = timed.step >= 0
    assert (timed.out[across] % 2 == timed.into[across] % 2).all()


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.int64, (3, 4), elements=st.integers(0, 50)),
    st.lists(st.floats(0.05, 1.0), min_size=3, max_size=3),
    st.lists(st.floats(0.05, 1.0), min_size=4, max_size=4),
)
def test_a_block_is_spread_whole_and_within_what_nics_take(block, left, right):
    if not block.any():
        return
    left, right = (np.array(x) * max(1.0, 1.0 / sum(x)) for x in (left, right))
    rows = spread_block(block, left, right)
    again = np.zeros_like(block)
    np.add.at(again, (rows[:, 2], rows[:, 3]), rows[:, 4])
    assert (again == block).all()
    assert (rows[:, 4] > 0).all()
    for end, most in ((0, left), (1, right)):
        taken = np.bincount(rows[:, end], rows[:, 4], minlength=len(most))
        assert (taken <= most * block.sum() + 13).all()


def test_balanced_blocks_need_no_hand_over():
    rows = spread_block(np.full((4, 4), 100), np.full(4, 0.25), np.full(4, 0.25))
    assert (rows[:, 0] == rows[:, 2]).all()
    assert (rows[:, 1] == rows[:, 3]).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 4), st.integers(1, 4), st.integers(0, 2**32 - 1), st.floats(0.3, 3.0))
def test_any_traffic_over_two_tiers_is_delivered_near_its_bound(domains, gpus, seed, spread):
    rng = np.random.default_rng(seed)
    n = domains * gpus
    traffic = check_traffic((1e6 * np.exp(spread * rng.normal(size=(n, n)))).astype(np.int64))
    timed = schedule_tiers(traffic, pod(domains, gpus))
    verify_timed(traffic, pod(domains, gpus), timed)
    assert timed.lower_bound_s <= timed.makespan_s <= 1.2 * timed.lower_bound_s
