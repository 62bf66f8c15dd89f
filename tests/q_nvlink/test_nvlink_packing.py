"""Gangs packed together: within one rack whenever enumeration finds a way, evenly else."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import InputError
from qcluster.q_nvlink import Gang, place_gangs
from qcluster.q_nvlink.packing import Packing, crossing_pods, pack_gangs

Racks = Mapping[str, Mapping[str, int]]


def cluster(*racks: Sequence[int]) -> dict[str, dict[str, int]]:
    return {
        f"r{i}": {f"r{i}n{j}": free for j, free in enumerate(nodes)}
        for i, nodes in enumerate(racks)
    }


def check(racks: Racks, gangs: Sequence[Gang], plan: Packing) -> None:
    """Every pod on a node with room, all or nothing, and the figures true."""
    home = {node: name for name, nodes in racks.items() for node in nodes}
    free = {node: count for nodes in racks.values() for node, count in nodes.items()}
    for gang in gangs:
        assert (gang.id in plan.nodes) != (gang.id in plan.unplaced)
        pods = plan.nodes.get(gang.id, [])
        assert len(pods) in (0, gang.pods)
        for node in pods:
            free[node] -= gang.gpus
        where = [home[node] for node in pods]
        assert {rack: where.count(rack) for rack in where} == plan.racks.get(gang.id, {})
        if gang.clique and pods:
            assert len(set(where)) == 1
        for start in range(0, len(pods), gang.segment):
            assert len(set(where[start : start + gang.segment])) == 1
    assert min(free.values()) >= 0
    used = {rack for found in plan.racks.values() for rack in found}
    assert plan.whole_racks == [name for name in racks if name not in used]
    assert plan.crossing == crossing_pods(racks, gangs, plan)


def fills(nodes: list[int], pods: list[int]) -> bool:
    """Whether pods (GPUs each) fit nodes: every way is tried."""
    if not pods:
        return True
    for i in range(len(nodes)):
        if nodes[i] >= pods[0]:
            nodes[i] -= pods[0]
            if fills(nodes, pods[1:]):
                nodes[i] += pods[0]
                return True
            nodes[i] += pods[0]
    return False


def splits(pods: int, racks: int) -> Iterator[tuple[int, ...]]:
    for cut in itertools.product(range(pods + 1), repeat=racks):
        if sum(cut) == pods:
            yield cut


def feasible(racks: Racks, gangs: Sequence[Gang]) -> bool:
    """Whether all gangs start with none crossing that fits a rack alone: all ways are tried."""
    nodes = [list(found.values()) for found in racks.values()]
    ways = []
    for gang in gangs:
        alone = any(sum(c // gang.gpus for c in rack) >= gang.pods for rack in nodes)
        if alone:
            ways.append(
                [tuple(gang.pods * (i == r) for i in range(len(nodes))) for r in range(len(nodes))]
            )
        else:
            ways.append(list(splits(gang.pods, len(nodes))))
    return any(
        all(
            fills(
                list(nodes[r]),
                [g.gpus for g, cut in zip(gangs, way, strict=True) for _ in range(cut[r])],
            )
            for r in range(len(nodes))
        )
        for way in itertools.product(*ways)
    )


def case(seed: int) -> tuple[dict[str, dict[str, int]], list[Gang]]:
    """Two or three small racks with failed GPUs, and gangs that fill most of them."""
    rng = random.Random(seed)
    racks = cluster(
        *([rng.choice((4, 4, 4, 3, 2, 0)) for _ in range(2)] for _ in range(rng.randint(2, 3)))
    )
    room = sum(c for nodes in racks.values() for c in nodes.values())
    gangs: list[Gang] = []
    while len(gangs) < 4 and room > 0:
        gpus = rng.choice((1, 2, 4))
        pods = rng.randint(1, max(1, 8 // gpus))
        if pods * gpus > room:
            break
        room -= pods * gpus
        gangs.append(Gang(id=f"g{len(gangs)}", pods=pods, gpus=gpus))
    return racks, gangs


@pytest.mark.parametrize("block", range(8))
def test_nothing_crosses_where_enumeration_finds_a_way(block: int) -> None:
    for seed in range(block * 50, block * 50 + 50):
        racks, gangs = case(seed)
        plan = pack_gangs(racks, gangs)
        check(racks, gangs, plan)
        clean = not plan.unplaced and plan.crossing == 0
        assert clean == feasible(racks, gangs), seed
        assert plan.proven or plan.unplaced


def test_it_looks_ahead_where_serving_in_turn_does_not() -> None:
    """In turn, 4 and 3 share a rack; 4 and 5, 3 and 6 fill both."""
    racks = cluster([9], [9])
    gangs = [Gang(id=str(i), pods=pods) for i, pods in enumerate((4, 3, 5, 6))]
    in_turn = place_gangs(racks, gangs)
    assert crossing_pods(racks, gangs, in_turn) > 0
    plan = pack_gangs(racks, gangs)
    check(racks, gangs, plan)
    assert plan.crossing == 0


def test_when_it_cannot_be_had_a_gang_is_spread_evenly_and_that_is_proven() -> None:
    racks = cluster([4], [4], [4])
    gangs = [Gang(id=str(i), pods=3) for i in range(4)]
    plan = pack_gangs(racks, gangs)
    check(racks, gangs, plan)
    assert plan.crossing == 3
    assert plan.proven
    assert sorted(len(found) for found in plan.racks.values()) == [1, 1, 1, 3]


def test_wide_gangs_are_even_over_the_fewest_racks() -> None:
    racks = cluster(*[[4] * 18] * 4)
    gangs = [Gang(id="wide", pods=32, gpus=4), Gang(id="narrow", pods=18, gpus=4)]
    plan = pack_gangs(racks, gangs)
    check(racks, gangs, plan)
    assert sorted(plan.racks["wide"].values()) == [16, 16]
    assert plan.crossing == 0
    assert len(plan.whole_racks) == 1


def test_cliques_wait_rather_than_cross_and_segments_stay_whole() -> None:
    racks = cluster([4, 4], [4, 4])
    gangs = [
        Gang(id="a", pods=3, gpus=2),
        Gang(id="b", pods=3, gpus=2),
        Gang(id="c", pods=2, gpus=2, clique=True),
    ]
    plan = pack_gangs(racks, gangs)
    check(racks, gangs, plan)
    assert "c" in plan.unplaced
    plan = pack_gangs(racks, [Gang(id="s", pods=6, gpus=2, segment=3)])
    check(racks, [Gang(id="s", pods=6, gpus=2, segment=3)], plan)
    assert sorted(plan.racks["s"].values()) == [3, 3]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_never_worse_than_serving_in_turn(seed: int) -> None:
    rng = random.Random(seed)
    racks = cluster(*([rng.choice((4, 4, 4, 0)) for _ in range(6)] for _ in range(5)))
    gangs = [
        Gang(id=str(i), pods=rng.randint(1, 8), gpus=rng.choice((1, 2, 4)))
        for i in range(rng.randint(1, 9))
    ]
    plan, before = pack_gangs(racks, gangs), place_gangs(racks, gangs)
    check(racks, gangs, plan)
    size = {gang.id: gang.pods * gang.gpus for gang in gangs}
    waiting = [sum(size[gang] for gang in found.unplaced) for found in (plan, before)]
    assert waiting[0] <= waiting[1]
    if waiting[0] == waiting[1]:
        assert plan.crossing <= crossing_pods(racks, gangs, before)


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="stands twice"):
        pack_gangs(cluster([4]), [Gang(id="a", pods=1), Gang(id="a", pods=1)])
    with pytest.raises(InputError, match="wants a count of free GPUs"):
        pack_gangs({"r": {"n": -1}}, [])
    assert pack_gangs({}, []).nodes == {}
    assert "a" in pack_gangs({}, [Gang(id="a", pods=1)]).unplaced
