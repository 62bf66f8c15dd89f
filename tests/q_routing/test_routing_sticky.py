"""Sticky replans: the budget holds, forced repairs are made, gains are real."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import InputError
from qcluster.q_routing import place_experts
from qcluster.q_routing._search_kernels import apply_step, quick_step
from qcluster.q_routing._sticky_kernels import best_step, count_layer, norm_layer
from qcluster.q_routing.formats import read_trace, windows_of
from qcluster.q_routing.placement import verify_placement
from qcluster.q_routing.problem import PlacementProblem
from qcluster.q_routing.sticky import moves_between, new_copies


def loads(seed, layers=3, experts=24):
    rng = np.random.default_rng(seed)
    return rng.multinomial(5000, rng.dirichlet(np.ones(experts)), size=layers)


def changed(before, after):
    return int(((before.slots != after.slots) & (after.slots >= 0)).sum())


@given(st.floats(0, 1), st.integers(0, 1000), st.integers(2, 6))
@settings(max_examples=20, deadline=None)
def test_the_budget_holds_and_the_plan_never_gets_worse(share, seed, gpus):
    first = place_experts(loads(seed), num_slots=36, num_gpus=gpus)
    load = loads(seed + 1)
    second = place_experts(load, num_slots=36, num_gpus=gpus, previous=first, max_moved=share)
    assert changed(first, second) <= int(share * first.slots.size)
    assert len(second.moves) == changed(first, second)
    assert second.balancedness >= first.balancedness_on(load) - 1e-9


def test_no_budget_keeps_the_plan_and_more_budget_is_never_worse():
    first = place_experts(loads(0), num_slots=36, num_gpus=4)
    load = loads(1)
    reached = [
        place_experts(load, num_slots=36, num_gpus=4, previous=first, max_moved=share).balancedness
        for share in (0.0, 0.1, 0.4, 1.0)
    ]
    assert reached[0] == pytest.approx(first.balancedness_on(load))
    assert reached == sorted(reached)
    assert reached[-1] > 0.97


def test_moves_name_a_source_that_held_the_expert():
    first = place_experts(loads(2), num_slots=36, num_gpus=4)
    second = place_experts(loads(3), num_slots=36, num_gpus=4, previous=first, max_moved=0.3)
    assert len(second.moves)
    for layer, slot, expert, source in second.moves:
        assert second.slots[layer, slot] == expert != first.slots[layer, slot]
        assert first.slots[layer, source] == expert
    assert moves_between(None, first.slots).shape == (0, 4)


def test_a_full_replan_is_renamed_to_move_little():
    load = loads(4, experts=36)
    first = place_experts(load, num_slots=36, num_gpus=6)
    # The same plan with its GPUs in another order must come back without a move.
    order = np.concatenate([np.arange(6 * g, 6 * g + 6) for g in (3, 0, 5, 1, 4, 2)])
    shuffled = first.slots[:, order]
    again = place_experts(load, num_slots=36, num_gpus=6, previous=shuffled)
    assert len(again.moves) == 0


def test_a_lost_gpu_is_repaired_first():
    load = loads(5)
    first = place_experts(load, num_slots=32, num_gpus=4)
    alive = np.array([True, False, True, True])
    held = {int(e) for e in first.slots[0, first.gpu_of_slot != 1]}
    lost = set(range(24)) - held
    second = place_experts(
        load, num_slots=32, num_gpus=4, previous=first, max_moved=0.0, alive=alive
    )
    assert lost <= {int(e) for e in second.slots[0]}
    assert (second.slots[:, first.gpu_of_slot == 1] == -1).all()
    assert {int(m[2]) for m in second.moves if m[0] == 0} == lost


def test_duplicates_in_the_previous_plan_are_given_up():
    load = np.array([[4, 3, 2, 1]])
    previous = np.array([[0, 0, 1, 2, 3, 1]])
    placement = place_experts(load, num_slots=6, num_gpus=2, previous=previous, max_moved=0.5)
    assert len(set(placement.slots[0, :3])) == 3


def test_hierarchical_replans_stay_in_their_node():
    load = loads(6)
    options = {"num_slots": 32, "num_gpus": 4, "num_nodes": 2, "num_groups": 4}
    options["mode"] = "hierarchical"
    first = place_experts(load, **options)
    second = place_experts(loads(7), **options, previous=first, max_moved=0.2)
    node = second.gpu_of_slot // 2
    for row in second.slots:
        for group in range(4):
            assert len(set(node[(row >= 0) & (row // 6 == group)])) == 1
    flat = place_experts(load, num_slots=32, num_gpus=4)
    with pytest.raises(InputError, match="several nodes"):
        place_experts(load, **options, previous=flat, max_moved=0.2)


def test_best_step_gain_is_what_a_recount_says():
    rng = np.random.default_rng(8)
    w = rng.random((2, 10))
    gpu, speed = np.repeat(np.arange(4), 4), np.array([1.0, 1.0, 0.5, 1.0])
    slots = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5])
    home = slots.copy()
    count, on = np.zeros(10, np.int64), np.zeros((4, 10), np.bool_)
    holder, load = np.zeros((10, 4), np.int64), np.zeros((2, 4))
    mean = w.sum(axis=1) / speed.sum()

    def cost(of):
        count_layer(w, speed, gpu, of, count, on, holder, load)
        times = np.zeros((2, 4))
        for v in range(2):
            for s, e in enumerate(of):
                times[v, gpu[s]] += w[v, e] / (of == e).sum() / speed[gpu[s]]
        assert load == pytest.approx(times)
        expected = (mean * ((times / mean[:, None]) ** 16).sum(axis=1) ** (1 / 16)).sum()
        assert norm_layer(load, mean) == pytest.approx(expected)
        return expected

    zone, area = np.zeros(4, np.int64), np.zeros(10, np.int64)
    for _ in range(6):
        before = cost(slots)
        gain, s, t, f = best_step(
            w, speed, gpu, zone, area, slots, home, count, on, holder, load, mean, 99
        )
        assert s >= 0
        moved = -int((slots != home).sum())
        if t < 0:
            slots[s] = f
        else:
            slots[s], slots[t] = slots[t], slots[s]
        moved += int((slots != home).sum())
        assert before - cost(slots) == pytest.approx(gain * max(moved, 0.5))


def test_five_percent_of_moves_hold_most_of_a_full_replan(data_dir):
    law = windows_of(read_trace(data_dir / "routing" / "dsv2lite_law.npz"), 2000, 64)
    first = place_experts(law[0], num_slots=80, num_gpus=8)
    full = place_experts(law[1], num_slots=80, num_gpus=8)
    sticky = place_experts(law[1], num_slots=80, num_gpus=8, previous=first, max_moved=0.05)
    assert sticky.moved_share <= 0.05
    assert sticky.balancedness_on(law[2]) >= 0.985 * full.balancedness_on(law[2])


def test_a_lost_expert_returns_to_its_own_node():
    load = loads(6)
    options = {"num_slots": 32, "num_gpus": 4, "num_nodes": 2, "num_groups": 4}
    options["mode"] = "hierarchical"
    first = place_experts(load, **options)
    alive = np.array([True, True, True, False])
    with pytest.raises(InputError, match="cannot hold"):
        place_experts(load, **options, alive=alive)
    options["num_slots"] = 64
    first = place_experts(load, **options)
    second = place_experts(load, **options, previous=first, max_moved=0.0, alive=alive)
    node = second.gpu_of_slot // 2
    for row in second.slots:
        for group in range(4):
            assert len(set(node[(row >= 0) & (row // 6 == group)])) == 1


def large(seed, windows=2, experts=20, gpus=40, each=8):
    """Loads, contents and the books of a layer that the short list is for."""
    rng = np.random.default_rng(seed)
    w = rng.pareto(1.2, (windows, experts)) + 0.05
    gpu = np.repeat(np.arange(gpus), each)
    slots = np.concatenate([rng.permutation(experts)[:each] for _ in range(gpus)])
    slots[: experts // each * each] = np.arange(experts // each * each)
    slots[gpu == 2] = (np.arange(each) + experts - each) % experts
    speed = rng.uniform(0.5, 2.0, gpus)
    return w, gpu, slots, speed, books(w, speed, gpu, slots)


def books(w, speed, gpu, slots):
    gpus, experts = len(speed), w.shape[1]
    count, on = np.zeros(experts, np.int64), np.zeros((gpus, experts), np.bool_)
    holder, load = np.zeros((experts, gpus), np.int64), np.zeros((len(w), gpus))
    count_layer(w, speed, gpu, slots, count, on, holder, load)
    return count, on, holder, load


@pytest.mark.parametrize("seed", range(6))
def test_the_short_list_s_gains_are_true_and_near_the_best_of_all(seed):
    w, gpu, slots, speed, (count, on, holder, load) = large(seed)
    gpus, experts = len(speed), w.shape[1]
    first, mean = np.searchsorted(gpu, np.arange(gpus + 1)), w.sum(axis=1) / speed.sum()
    zone, area, home = np.zeros(gpus, np.int64), np.zeros(experts, np.int64), slots.copy()
    tables = (zone, area, slots, home, count, on, holder, load, mean, 100)
    quick = quick_step(w, speed, first, *tables)
    full = best_step(w, speed, gpu, *tables)
    assert full[0] >= quick[0] * (1 - 1e-9) >= 0.5 * full[0]
    before = norm_layer(load, mean)
    gain, s, t, f = quick
    price = 1 if t < 0 else 2
    step = np.array([s, t, f, price])
    after = slots.copy()
    apply_step(w, speed, gpu, after, step, count, on, holder, load)
    fresh = books(w, speed, gpu, after)
    assert np.array_equal(count, fresh[0])
    assert np.array_equal(on, fresh[1])
    for e in range(experts):
        assert sorted(holder[e, : count[e]]) == sorted(fresh[2][e, : count[e]])
    assert load == pytest.approx(fresh[3])
    assert before - norm_layer(load, mean) == pytest.approx(gain * price)
    assert np.count_nonzero(after != slots) == price


def test_large_layers_are_replanned_within_the_budget():
    rng = np.random.default_rng(0)
    load = rng.pareto(1.0, (4, 24)) + 0.1
    options = {"num_slots": 320, "num_gpus": 160}
    first = place_experts(rng.permuted(load, axis=1), **options)
    before = first.balancedness_on(load)
    for share in (0.02, 0.1, 0.3):
        again = place_experts(load, **options, previous=first, max_moved=share)
        assert len(again.moves) <= share * first.slots.size
        assert again.balancedness > before * (1 + 2 * share)
        before = again.balancedness
        verify_placement(PlacementProblem.of(load, **options), again.slots)


def test_new_copies_counts_what_a_fresh_plan_lacks():
    load = np.array([[8.0, 1.0, 1.0, 1.0]])
    problem = PlacementProblem.of(load, num_slots=8, num_gpus=8)
    even = np.array([[0, 1, 2, 3, 0, 1, 2, 3]])
    assert new_copies(problem, even) == 3
    best = np.array([[0, 0, 0, 0, 0, 1, 2, 3]])
    assert new_copies(problem, best) == 0
