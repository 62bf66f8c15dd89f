"""Gangs over racks: every complaint that users of other schedulers filed, and the rules."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import InputError
from qcluster.q_nvlink.gangs import Gang, GangPlan, place_gangs


def rack_of(name: str, nodes: int, gpus: int) -> dict[str, int]:
    return {f"{name}-{i}": gpus for i in range(nodes)}


def check(racks: dict, gangs: list[Gang], plan: GangPlan) -> None:
    left = {node: n for nodes in racks.values() for node, n in nodes.items()}
    home = {node: name for name, nodes in racks.items() for node in nodes}
    for gang in gangs:
        assert (gang.id in plan.nodes) != (gang.id in plan.unplaced)
        placed = plan.nodes.get(gang.id, [])
        assert len(placed) in (0, gang.pods)
        for node in placed:
            left[node] -= gang.gpus
        for begin in range(0, len(placed), gang.segment):
            assert len({home[node] for node in placed[begin : begin + gang.segment]}) == 1
        if placed:
            counts = plan.racks[gang.id]
            assert {r: [home[n] for n in placed].count(r) for r in counts} == counts
            assert len(counts) == plan.fewest_racks[gang.id]
            assert not gang.clique or len(counts) == 1
    assert min(left.values(), default=0) >= 0


def test_sixteen_pods_over_two_racks_are_eight_and_eight():
    racks = {"a": rack_of("a", 15, 4), "b": rack_of("b", 15, 4)}
    plan = place_gangs(racks, [Gang(id="train", pods=16, gpus=4)])
    assert plan.racks["train"] == {"a": 8, "b": 8}


def test_segments_of_twelve_over_blocks_of_seventeen():
    racks = {name: rack_of(name, 17, 8) for name in "abc"}
    plan = place_gangs(racks, [Gang(id="j", pods=36, gpus=8, segment=12)])
    assert plan.racks["j"] == {"a": 12, "b": 12, "c": 12}


def test_single_gpu_jobs_leave_racks_whole():
    racks = {f"rack{i:02d}": rack_of(f"r{i}", 18, 4) for i in range(33)}
    small = [Gang(id=f"s{i}", pods=1) for i in range(72)]
    plan = place_gangs(racks, [*small, Gang(id="one-more", pods=1)])
    assert len(plan.whole_racks) == 31
    full = [Gang(id=f"f{i}", pods=18, gpus=4, clique=True) for i in range(32)]
    both = place_gangs(racks, [*small, *full])
    assert not both.unplaced
    # Nodes stay whole as well: 72 single GPUs fill 18 nodes, not a corner of each.
    assert len({node for gang in small[:4] for node in plan.nodes[gang.id]}) == 1


def test_shape_counts_not_the_number_of_gpus():
    racks = {"a": {"n0": 4, "n1": 4}}
    assert "on one node" in place_gangs(racks, [Gang(id="j", pods=1, gpus=8)]).unplaced["j"]
    assert place_gangs(racks, [Gang(id="j", pods=2, gpus=4)]).racks["j"] == {"a": 2}
    six_and_two = {"a": {"n0": 6, "n1": 2}}
    assert "on one node" in place_gangs(six_and_two, [Gang(id="j", pods=1, gpus=8)]).unplaced["j"]


def test_a_clique_without_room_takes_nothing_and_says_so():
    racks = {"a": rack_of("a", 3, 4), "b": rack_of("b", 3, 4)}
    gangs = [Gang(id="pinned", pods=4, gpus=4, clique=True), Gang(id="next", pods=6, gpus=4)]
    plan = place_gangs(racks, gangs)
    assert "in one rack, the roomiest holds 3" in plan.unplaced["pinned"]
    assert plan.racks["next"] == {"a": 3, "b": 3}
    assert plan.whole_racks == []


def test_too_large_is_told_by_count():
    plan = place_gangs({"a": {"n": 2}}, [Gang(id="j", pods=3)])
    assert plan.unplaced["j"] == "needs 3 GPUs, 2 are free"
    blocks = {"a": {"n": 5}, "b": {"m": 5}}
    reason = place_gangs(blocks, [Gang(id="j", pods=6, segment=6)]).unplaced["j"]
    assert reason == "needs 1 runs of 6 pods in one rack, there are 0"


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_any_gangs_keep_the_rules(seed):
    import numpy as np

    rng = np.random.default_rng(seed)
    racks = {
        f"r{r}": {f"r{r}n{i}": int(rng.integers(0, 9)) for i in range(int(rng.integers(0, 4)))}
        for r in range(int(rng.integers(1, 5)))
    }
    gangs = []
    for i in range(int(rng.integers(1, 5))):
        segment = int(rng.integers(1, 4))
        pods = segment * int(rng.integers(1, 4))
        clique = bool(rng.integers(0, 2))
        gangs.append(
            Gang(
                id=f"g{i}", pods=pods, gpus=int(rng.integers(1, 5)), segment=segment, clique=clique
            )
        )
    check(racks, gangs, place_gangs(racks, gangs))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(1, 12))
def test_split_is_as_even_as_any_over_the_fewest_racks(sizes, pods):
    racks = {f"r{i}": {f"n{i}": size} for i, size in enumerate(sizes)}
    plan = place_gangs(racks, [Gang(id="g", pods=pods)])
    ways = [w for w in product(*(range(s + 1) for s in sizes)) if sum(w) == pods]
    if not ways:
        assert "g" in plan.unplaced
        return
    fewest = min(sum(c > 0 for c in w) for w in ways)
    assert len(plan.racks["g"]) == fewest == plan.fewest_racks["g"]
    best = min(max(w) - min(c for c in w if c) for w in ways if sum(c > 0 for c in w) == fewest)
    got = plan.racks["g"].values()
    assert max(got) - min(got) == best


@pytest.mark.parametrize(
    ("racks", "gang", "text"),
    [
        ({"a": {"n": -1}}, {}, "free GPUs"),
        ({"a": {"n": True}}, {}, "free GPUs"),
        ({"a": {"n": 1}, "b": {"n": 1}}, {}, "two racks"),
        ({"a": {"n": 1}}, {"pods": 0}, "at least 1"),
        ({"a": {"n": 1}}, {"gpus": 1.5}, "at least 1"),
        ({"a": {"n": 1}}, {"pods": 3, "segment": 2}, "divisor"),
    ],
)
def test_bad_input(racks, gang, text):
    with pytest.raises(InputError, match=text):
        place_gangs(racks, [Gang(**{"id": "g", "pods": 1, **gang})])


def test_a_gang_stands_once():
    with pytest.raises(InputError, match="twice"):
        place_gangs({"a": {"n": 4}}, [Gang(id="g", pods=1), Gang(id="g", pods=1)])
