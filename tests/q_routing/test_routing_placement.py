"""Placement: invariants, brute force on small cases, bounds, twins of the kernels, bad input."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import InputError, SolverFailed
from qcluster.q_routing import Placement, place_experts
from qcluster.q_routing._bound_kernels import crowd_bound
from qcluster.q_routing._kernels import replicate
from qcluster.q_routing._place_kernels import pack_layer, swap_layer
from qcluster.q_routing.bounds import time_bound
from qcluster.q_routing.formats import read_load_file
from qcluster.q_routing.groups import pair_groups
from qcluster.q_routing.placement import verify_placement
from qcluster.q_routing.problem import PlacementProblem, balancedness, gpu_loads


def zipf(s, layers=6, experts=256, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(layers):
        p = np.arange(1, experts + 1) ** -s * np.exp(0.2 * rng.standard_normal(experts))
        rng.shuffle(p)
        rows.append(rng.multinomial(2_000_000, p / p.sum()))
    return np.array(rows)


def score(placement, load):
    """Balancedness recounted in plain Python; also that no GPU holds an expert twice."""
    mean = top = 0.0
    for row, w in zip(placement.slots, load, strict=True):
        gpus = [[] for _ in range(placement.num_gpus)]
        for gpu, expert in zip(placement.gpu_of_slot, row, strict=True):
            if expert >= 0:
                gpus[gpu].append(expert)
        assert all(len(set(held)) == len(held) for held in gpus)
        copies = {e: sum(e in held for held in gpus) for e in range(len(w))}
        assert min(copies.values()) >= 1
        times = [sum(w[e] / copies[e] for e in held) for held in gpus]
        mean += sum(times) / len(times)
        top += max(times)
    return mean / top


def brute_force(w, gpus, room):
    """Least largest GPU load of one layer over all fillings of every slot."""
    best = np.inf
    choices = list(itertools.combinations(range(len(w)), room))
    for held in itertools.combinations_with_replacement(choices, gpus):
        copies = np.bincount(np.array(held).ravel(), minlength=len(w))
        if copies.min() >= 1:
            best = min(best, max(sum(w[e] / copies[e] for e in gpu) for gpu in held))
    return best


@pytest.mark.parametrize(
    ("s", "gpus", "least"),
    [(0.5, 32, 0.999), (0.8, 32, 0.999), (1.1, 32, 0.999), (0.5, 72, 0.997), (0.8, 72, 0.997)],
)
def test_balance_at_the_size_of_large_models(s, gpus, least):
    load = zipf(s)
    placement = place_experts(load, num_slots=288, num_gpus=gpus)
    assert placement.balancedness >= least
    assert placement.balancedness >= 0.997 * placement.upper_bound
    assert score(placement, load) == pytest.approx(placement.balancedness)


@pytest.mark.parametrize("task", ["intent", "law"])
def test_real_loads_reach_998_permille(data_dir, task):
    load = read_load_file(data_dir / "routing" / f"dsv2lite_{task}_load.csv")
    placement = place_experts(load, num_slots=96, num_gpus=16)
    assert placement.balancedness >= 0.998
    assert score(placement, load) == pytest.approx(placement.balancedness)


@pytest.mark.parametrize("seed", range(6))
def test_small_cases_against_brute_force(seed):
    rng = np.random.default_rng(seed)
    w = rng.integers(1, 60, 5).astype(float)
    best = brute_force(w, 3, 3)
    placement = place_experts(w[None], num_slots=9, num_gpus=3)
    reached = w.sum() / 3 / placement.balancedness
    assert w.sum() / 3 / placement.upper_bound <= best * (1 + 1e-9) <= reached * (1 + 2e-9)
    assert reached <= best * 1.12


@given(
    st.integers(1, 12),
    st.integers(1, 6),
    st.integers(0, 20),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_any_counts_give_a_valid_plan_within_its_bound(experts, gpus, spare, layers, seed):
    load = np.random.default_rng(seed).integers(0, 50, (layers, experts))
    placement = place_experts(load, num_slots=experts + gpus + spare, num_gpus=gpus)
    assert placement.balancedness <= placement.upper_bound * (1 + 1e-12)
    again = Placement.from_dict(json.loads(json.dumps(placement.to_dict())))
    assert again == placement
    if load.sum(axis=1).min() > 0:
        assert score(placement, load) == pytest.approx(placement.balancedness)


def test_slots_that_do_not_divide_and_given_slots():
    load = zipf(0.8, 2, 16)
    assert np.bincount(place_experts(load, num_slots=21, num_gpus=4).gpu_of_slot).tolist() == [
        6, 5, 5, 5,
    ]  # fmt: skip
    placement = place_experts(load, num_slots=20, num_gpus=4, slots_per_gpu=[8, 6, 4, 2])
    assert np.bincount(placement.gpu_of_slot).tolist() == [8, 6, 4, 2]
    score(placement, load)


def test_more_slots_than_experts_on_a_gpu_stay_empty():
    placement = place_experts([[3, 4]], num_slots=6, num_gpus=2)
    assert (placement.slots >= 0).sum() == 4
    assert placement.balancedness == pytest.approx(1.0)


def test_slow_gpus_carry_less():
    load = zipf(0.8, 3, 64)
    placement = place_experts(load, num_slots=96, num_gpus=8, speed=[1, 1, 1, 1, 0.5, 0.5, 2, 2])
    carried = placement.gpu_loads(load).sum(axis=0)
    assert carried[4] < carried[0] < carried[6]
    assert placement.balancedness > 0.96


def test_dead_gpus_hold_nothing():
    load = zipf(0.8, 3, 64)
    alive = np.arange(8) != 3
    placement = place_experts(load, num_slots=96, num_gpus=8, alive=alive)
    assert (placement.slots[:, placement.gpu_of_slot == 3] == -1).all()
    assert placement.balancedness > 0.99
    assert placement.gpu_loads(load).sum() == pytest.approx(load.sum())


@pytest.mark.parametrize("s", [0.5, 0.8, 1.1])
def test_hierarchical_keeps_groups_on_nodes_and_reaches_the_pairing_cap(s):
    load = zipf(s)
    placement = place_experts(
        load, num_slots=288, num_gpus=32, num_nodes=4, num_groups=8, mode="hierarchical"
    )
    node = placement.gpu_of_slot // 8
    for row in placement.slots:
        homes = [{*node[np.isin(row, range(32 * g, 32 * g + 32))]} for g in range(8)]
        assert all(len(home) == 1 for home in homes)
        assert np.bincount([next(iter(h)) for h in homes]).tolist() == [2, 2, 2, 2]
    assert placement.balancedness >= 0.98 * placement.upper_bound
    score(placement, load)


@pytest.mark.parametrize("seed", range(5))
def test_group_pairing_is_exact(seed):
    load = np.random.default_rng(seed).random(6)
    best = min(
        max(load[list(p[i : i + 2])].sum() for i in (0, 2, 4))
        for p in itertools.permutations(range(6))
    )
    node, bound = pair_groups(load, np.ones(3))
    assert bound == pytest.approx(best)
    assert np.bincount(node, weights=load).max() == pytest.approx(best)
    assert np.bincount(node).tolist() == [2, 2, 2]


def test_many_groups_are_paired_well_and_bounded():
    load = np.random.default_rng(0).random(64)
    node, bound = pair_groups(load, np.ones(8))
    assert np.bincount(node).tolist() == [8] * 8
    assert bound <= np.bincount(node, weights=load).max() <= bound * 1.02


def test_several_windows_are_balanced_together():
    windows = np.stack([zipf(0.8, 3, 64, seed) for seed in (1, 2)])
    both = place_experts(windows, num_slots=96, num_gpus=8)
    one = place_experts(windows[0], num_slots=96, num_gpus=8)
    assert both.balancedness > one.balancedness_on(windows) + 0.05
    assert both.balancedness <= both.upper_bound


@pytest.mark.parametrize("seed", range(8))
def test_crowd_bound_is_below_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    w = np.sort(rng.pareto(0.8, 5) + 0.2)[::-1].copy()
    best = brute_force(w, 3, 3)
    low = float(time_bound(w[None], np.full(3, 3), np.ones(3))[0])
    bound = crowd_bound(w, low, 4, 3, np.inf)
    assert low <= bound <= best * (1 + 1e-9)
    assert crowd_bound(w, low, 4, 3, best) == pytest.approx(bound, rel=2e-5)
    placement = place_experts(w[None], num_slots=9, num_gpus=3)
    assert w.sum() / 3 / placement.upper_bound <= best * (1 + 1e-9)


def test_skewed_loads_are_certified_near_their_best():
    """On 72 GPUs the hottest experts of s = 1.1 cannot be split finely enough for any plan."""
    placement = place_experts(zipf(1.1), num_slots=288, num_gpus=72)
    assert placement.balancedness < 0.9
    assert placement.balancedness >= 0.99 * placement.upper_bound


def test_bound_counts_the_copies_that_slots_allow():
    # One expert with all the load on four GPUs, one slot to spare: half is the best share.
    load = np.array([[100.0, 0, 0, 0, 0, 0, 0]])
    assert time_bound(load, np.full(4, 2), np.ones(4))[0] == pytest.approx(50.0)
    assert time_bound(load, np.full(4, 2), np.array([2.0, 1, 1, 1]))[0] <= 50.0


def test_replicas_minimise_the_largest_share():
    rng = np.random.default_rng(3)
    for _ in range(20):
        w = rng.random(4)
        best = min(
            (w / np.array(c)).max() for c in itertools.product(range(1, 5), repeat=4) if sum(c) == 9
        )
        assert (w / replicate(w, 5, 4)).max() == pytest.approx(best)


def test_replicate_twin():
    w = np.random.default_rng(4).random(40)
    count = np.ones(40, dtype=int)
    for _ in range(25):
        count[np.where(count < 6, w / count, -1).argmax()] += 1
    assert replicate(w, 25, 6).tolist() == count.tolist()
    assert replicate(w, 1000, 6).tolist() == [6] * 40


def test_pack_twin():
    """The kernel's packing equals longest-processing-time-first written with NumPy."""
    rng = np.random.default_rng(5)
    w, gpus, room = rng.random(12), 4, 5
    count = replicate(w, gpus * room - 12, gpus)
    start = np.arange(gpus + 1) * room
    slots, on = np.full(20, -1), np.zeros((12, gpus), dtype=bool)
    load = np.zeros(gpus)
    pack_layer(w, count.copy(), start, np.ones(gpus), slots, on, load)
    held, total = [[] for _ in range(gpus)], np.zeros(gpus)
    for e in np.argsort(-w / count, kind="stable"):
        for _ in range(count[e]):
            free = [len(h) < room and e not in h for h in held]
            g = int(np.where(free, total, np.inf).argmin())
            held[g].append(e)
            total[g] += w[e] / count[e]
    assert slots.reshape(gpus, room).tolist() == held
    assert load == pytest.approx(total)


def test_swaps_only_improve_and_keep_books():
    rng = np.random.default_rng(6)
    share, start = rng.random(12), np.arange(5) * 3
    slots = np.arange(12)
    on = np.zeros((12, 4), dtype=bool)
    on[slots, slots // 3] = True
    load = share.reshape(4, 3).sum(axis=1)
    before = load.max()
    swap_layer(share, start, np.ones(4), slots, on, load, 0.0, 1000)
    assert load.max() < before
    assert load == pytest.approx(share[slots].reshape(4, 3).sum(axis=1))
    assert sorted(slots) == list(range(12))


def test_the_verifier_finds_what_is_wrong():
    problem = PlacementProblem.of([[1, 2, 3]], num_slots=4, num_gpus=2, alive=[True, True])
    verify_placement(problem, np.array([[0, 1, 2, 0]]))
    for slots, message in (
        ([[0, 0, 1, 2]], "twice"),
        ([[0, 1, 0, 1]], "no slot"),
        ([[0, 1, 2, 7]], "no known expert"),
    ):
        with pytest.raises(SolverFailed, match=message):
            verify_placement(problem, np.array(slots))
    lost = PlacementProblem.of([[1, 2]], num_slots=4, num_gpus=2, alive=[True, False])
    with pytest.raises(SolverFailed, match="dead"):
        verify_placement(lost, np.array([[0, 1, 0, -1]]))


def test_same_input_same_plan_even_with_ties():
    load = np.ones((3, 32))
    first = place_experts(load, num_slots=40, num_gpus=8)
    assert np.array_equal(first.slots, place_experts(load, num_slots=40, num_gpus=8).slots)


def test_zero_layers_count_for_nothing():
    load = np.array([[0, 0, 0, 0], [5, 3, 2, 2]])
    placement = place_experts(load, num_slots=6, num_gpus=2)
    assert placement.balancedness == pytest.approx(1.0)
    assert place_experts(load * 0, num_slots=6, num_gpus=2).balancedness == 1.0


def test_counts_beyond_float32_and_int32_stay_exact():
    load = np.array([[2**31 + 1, 2**31 + 3, 2**24 + 1, 7]], dtype=np.int64)
    placement = place_experts(load, num_slots=4, num_gpus=2)
    assert placement.gpu_loads(load).sum() == load.sum()


@pytest.mark.parametrize(
    ("load", "options", "message"),
    [
        ([[1, np.nan]], {}, "'load': nan at"),
        ([[1, np.inf]], {}, "inf at"),
        ([[1, -1]], {}, "-1.0 at"),
        ([1, 2], {}, "shape"),
        ([[]], {}, "shape"),
        ([[True, False]], {}, "wants numbers"),
        ([["a", "b"]], {}, "wants numbers"),
        ([[1, 2]], {"num_slots": 1}, "cannot hold 2 experts"),
        ([[1, 2]], {"num_slots": True}, "whole number"),
        ([[1, 2]], {"num_gpus": 0}, "whole number"),
        ([[1, 2]], {"num_gpus": 2.0}, "whole number"),
        ([[1, 2]], {"slots_per_gpu": [1, 2]}, "adds up to 3"),
        ([[1, 2]], {"slots_per_gpu": [4]}, "2 counts"),
        ([[1, 2]], {"speed": [1, 0]}, "above 0"),
        ([[1, 2]], {"speed": [1, np.nan]}, "above 0"),
        ([[1, 2]], {"alive": [False, False]}, "no GPU is alive"),
        ([[1, 2]], {"alive": [1]}, "truth values"),
        ([[1, 2]], {"mode": "fast"}, "'global' or 'hierarchical'"),
        ([[1, 2]], {"mode": "hierarchical", "num_nodes": 3}, "multiple of 3"),
        ([[1, 2]], {"previous": [[0, 1]]}, "shape"),
        ([[1, 2]], {"previous": [[0, 1, 5, 0]]}, "no load"),
        ([[1, 2]], {"previous": [[0, 1, 1, 0]], "max_moved": 2}, "from 0 to 1"),
    ],
)
def test_bad_input_is_named(load, options, message):
    arguments = {"num_slots": 4, "num_gpus": 2, **options}
    with pytest.raises(InputError, match=message):
        place_experts(load, **arguments)


def test_balancedness_of_nothing_is_one():
    assert balancedness(np.zeros((2, 3)), np.ones(3)) == 1.0
    slots, owner = np.array([[0, 1, 0]]), np.array([0, 0, 1])
    loads = gpu_loads(slots, owner, np.array([[4.0, 2.0]]), 2)
    assert loads.tolist() == [[4.0, 2.0]]


def test_plans_are_equal_in_another_process():
    code = (
        "import numpy as np; from qcluster.q_routing import place_experts;"
        "plan = place_experts(np.arange(32).reshape(2, 16), num_slots=20, num_gpus=4);"
        "print(plan.slots.tolist())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = place_experts(np.arange(32).reshape(2, 16), num_slots=20, num_gpus=4)
    assert json.loads(out.stdout) == here.slots.tolist()
