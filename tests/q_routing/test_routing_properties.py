"""What every placement and dispatch must be, whatever is asked: checked in plain Python."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qcluster.errors import InputError
from qcluster.q_routing import dispatch, place_experts


def check(placement, load, slots_per_gpu, speed, alive):
    """Structure and figures of a placement, recounted from nothing but its slots."""
    windows = load if load.ndim == 3 else load[None]
    owner = [g for g, n in enumerate(slots_per_gpu) for _ in range(n)]
    assert placement.gpu_of_slot.tolist() == owner
    mean = top = 0.0
    for window, x in itertools.product(windows, range(load.shape[-2])):
        held = {}
        for g, e in zip(owner, placement.slots[x].tolist(), strict=True):
            if e >= 0:
                assert alive[g]
                assert g not in held.setdefault(e, set())
                held[e].add(g)
        assert set(held) == set(range(load.shape[-1]))
        time = [0.0] * len(speed)
        for e, gpus in held.items():
            for g in gpus:
                time[g] += float(window[x, e]) / len(gpus) / speed[g]
        mean += float(window[x].sum()) / sum(s for s, up in zip(speed, alive, strict=True) if up)
        top += max(time)
    reached = min(1.0, mean / top) if top > 0 else 1.0
    assert placement.balancedness == pytest.approx(reached)
    assert reached <= placement.upper_bound * (1 + 1e-9) <= 1 + 1e-8


@st.composite
def problems(draw):
    gpus, experts = draw(st.integers(1, 6)), draw(st.integers(1, 10))
    room = draw(st.lists(st.integers(0, 6), min_size=gpus, max_size=gpus))
    alive = draw(st.lists(st.booleans(), min_size=gpus, max_size=gpus))
    speed = draw(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=gpus, max_size=gpus))
    usable = sum(min(r, experts) for r, up in zip(room, alive, strict=True) if up)
    assume(usable >= experts)
    shape = draw(st.sampled_from([(2, experts), (3, 2, experts)]))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    load = rng.integers(0, draw(st.sampled_from([1, 3, 1000])) + 1, shape)
    return load, room, speed, alive


@given(problems())
@settings(max_examples=60, deadline=None)
def test_any_placement_is_complete_and_says_the_truth(given_problem):
    load, room, speed, alive = given_problem
    placement = place_experts(
        load, num_slots=sum(room), num_gpus=len(room), slots_per_gpu=room, speed=speed, alive=alive
    )
    check(placement, load, room, speed, alive)


@given(problems(), st.integers(0, 10_000), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_any_replan_is_complete_and_within_its_budget(given_problem, seed, share):
    load, room, speed, alive = given_problem
    options = {"num_slots": sum(room), "num_gpus": len(room), "slots_per_gpu": room, "speed": speed}
    before = place_experts(load, **options, alive=alive)
    again = np.random.default_rng(seed).permuted(load, axis=-1)
    after = place_experts(again, **options, alive=alive, previous=before, max_moved=share)
    check(after, again, room, speed, alive)
    assert len(after.moves) <= int(share * before.slots.size)
    for layer, slot, expert, source in after.moves.tolist():
        assert after.slots[layer, slot] == expert != before.slots[layer, slot]
        assert before.slots[layer, source] == expert
    assert after.balancedness >= before.balancedness_on(again) - 1e-9


@given(problems(), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_any_pick_is_served_by_a_gpu_that_holds_its_expert(given_problem, seed):
    load, room, speed, alive = given_problem
    placement = place_experts(
        load, num_slots=sum(room), num_gpus=len(room), slots_per_gpu=room, speed=speed, alive=alive
    )
    experts = load.shape[-1]
    rng = np.random.default_rng(seed)
    k = min(3, experts)
    picks = np.array([[rng.permutation(experts)[:k] for _ in range(2)] for _ in range(30)])
    gpus = dispatch(placement, picks)
    assert gpus.shape == picks.shape
    for i, x, j in np.ndindex(picks.shape):
        there = placement.gpu_of_slot == gpus[i, x, j]
        assert picks[i, x, j] in placement.slots[x, there]


@given(st.integers(0, 10_000), st.integers(1, 3))
@settings(max_examples=10, deadline=None)
def test_the_bound_holds_for_the_best_of_all_placements(seed, spare):
    load = np.random.default_rng(seed).integers(0, 20, (1, 4))
    size = 4 + spare + (4 + spare) % 2
    placement = place_experts(load, num_slots=size, num_gpus=2)
    best = 0.0
    for row in itertools.product(range(-1, 4), repeat=size):
        halves = [[e for e in half if e >= 0] for half in (row[: size // 2], row[size // 2 :])]
        if any(len(set(h)) < len(h) for h in halves) or len(set(row) - {-1}) < 4:
            continue
        copies = np.bincount([e for h in halves for e in h], minlength=4)
        top = max(sum(load[0, e] / copies[e] for e in h) for h in halves)
        best = max(best, load.sum() / 2 / top if top else 1.0)
    assert best <= placement.upper_bound * (1 + 1e-9)
    assert placement.balancedness >= 0.9 * best


def test_one_expert_goes_everywhere_there_is_room():
    placement = place_experts([[7]], num_slots=3, num_gpus=3)
    assert placement.slots.tolist() == [[0, 0, 0]]
    assert placement.balancedness == 1.0


def test_float_counts_are_counts():
    whole = place_experts([[3, 1, 2, 2]], num_slots=6, num_gpus=2)
    assert np.array_equal(
        whole.slots, place_experts([[3.0, 1.0, 2.0, 2.0]], num_slots=6, num_gpus=2).slots
    )


def test_slots_that_do_not_divide_go_to_the_first_gpus():
    placement = place_experts(np.ones((1, 5)), num_slots=8, num_gpus=3)
    assert np.bincount(placement.gpu_of_slot).tolist() == [3, 3, 2]


def test_fewer_slots_than_experts_are_refused():
    with pytest.raises(InputError, match=r"2 slots .* cannot hold 3 experts"):
        place_experts([[1, 2, 3]], num_slots=2, num_gpus=2)


def test_more_gpus_than_copies_leave_gpus_without_work():
    placement = place_experts([[5, 5]], num_slots=2, num_gpus=2)
    assert placement.balancedness == 1.0
    wide = place_experts([[5, 5]], num_slots=2, num_gpus=4)
    assert wide.balancedness == pytest.approx(0.5)
    assert wide.upper_bound == pytest.approx(0.5)


def test_a_layer_of_zeros_beside_others_is_placed_whole():
    placement = place_experts([[0, 0, 0], [9, 1, 2]], num_slots=4, num_gpus=2)
    assert set(placement.slots[0].tolist()) >= {0, 1, 2}
