"""Traffic: dispatch serves every pick where its expert stands, evenly, on few GPUs."""

import itertools

import numpy as np
import pytest

from qcluster.errors import InputError
from qcluster.q_routing import dispatch, place_experts
from qcluster.q_routing._traffic_kernels import (
    anneal_groups,
    cover_layer,
    extra_gain,
    pair_counts,
)
from qcluster.q_routing.formats import count_picks, read_trace
from qcluster.q_routing.traffic import fan_out

ALIKE = np.empty((0, 0))


def clustered(tokens=800, layers=2, experts=16, k=3, seed=0):
    """Tokens pick within one of four topics of experts, with some noise."""
    rng = np.random.default_rng(seed)
    topic = [rng.permutation(experts).reshape(4, -1) for _ in range(layers)]
    out = np.empty((tokens, layers, k), dtype=np.int64)
    for i, x in itertools.product(range(tokens), range(layers)):
        pool = topic[x][rng.integers(4)] if rng.random() < 0.9 else np.arange(experts)
        out[i, x] = rng.choice(pool, k, replace=False)
    return out


def held(placement, picks, gpus):
    for x in range(picks.shape[1]):
        homes = [
            set(placement.gpu_of_slot[placement.slots[x] == e].tolist())
            for e in range(placement.num_experts)
        ]
        for e, g in zip(picks[:, x].ravel(), gpus[:, x].ravel(), strict=True):
            assert g in homes[e]


def test_every_pick_is_served_where_its_expert_stands():
    picks = clustered()
    placement = place_experts(count_picks(picks), num_slots=24, num_gpus=4)
    gpus = dispatch(placement, picks)
    assert gpus.shape == picks.shape
    held(placement, picks, gpus)


def test_traffic_placement_visits_fewer_gpus_at_even_load():
    fit, other = clustered(seed=1)[:400], clustered(seed=1)[400:]
    load = count_picks(fit, 16)
    plain = place_experts(load, num_slots=24, num_gpus=4)
    together = place_experts(load, num_slots=24, num_gpus=4, trace=fit)
    held(together, other, dispatch(together, other))
    assert fan_out(dispatch(together, other)) < 0.75 * fan_out(dispatch(plain, other))
    for x in range(2):
        count = np.bincount(dispatch(together, other)[:, x].ravel(), minlength=4)
        assert count.max() < 1.12 * count.mean()


def test_real_traces_halve_the_visits(data_dir):
    trace = read_trace(data_dir / "routing" / "dsv2lite_intent.npz")[:, ::6]
    fit, other = trace[:4000], trace[4000:]
    load = count_picks(fit, 64)
    plain = place_experts(load, num_slots=96, num_gpus=8)
    together = place_experts(load, num_slots=96, num_gpus=8, trace=fit)
    gpus = dispatch(together, other)
    held(together, other, gpus)
    assert fan_out(gpus) < 0.85 * fan_out(dispatch(plain, other))
    counts = np.stack([np.bincount(gpus[:, x].ravel(), minlength=8) for x in range(5)])
    assert counts.mean(axis=1).sum() / counts.max(axis=1).sum() > 0.95


def test_dead_and_slow_gpus_are_respected():
    picks = clustered()
    placement = place_experts(
        count_picks(picks),
        num_slots=40,
        num_gpus=5,
        alive=[True, True, False, True, True],
        speed=[1, 1, 1, 1, 0.5],
        trace=picks,
    )
    gpus = dispatch(placement, picks)
    held(placement, picks, gpus)
    count = np.bincount(gpus.ravel(), minlength=5)
    assert count[2] == 0
    assert count[4] < 0.75 * count[0]


def test_uneven_slots_are_all_used_once():
    picks = clustered()
    placement = place_experts(
        count_picks(picks), num_slots=23, num_gpus=4, slots_per_gpu=[8, 3, 7, 5], trace=picks
    )
    assert (placement.slots >= 0).all()
    assert np.bincount(placement.gpu_of_slot).tolist() == [8, 3, 7, 5]


def test_a_previous_placement_is_stayed_near():
    picks = clustered()
    load = count_picks(picks)
    first = place_experts(load, num_slots=24, num_gpus=4, trace=picks)
    again = place_experts(load, num_slots=24, num_gpus=4, trace=picks, previous=first)
    assert len(again.moves) == 0


def test_fan_out_counts_distinct_gpus():
    assert fan_out([[[0, 0, 1]], [[2, 2, 2]]]) == pytest.approx(1.5)


def test_pair_counts_twin():
    picks = clustered(50)[:, 0]
    wanted = np.zeros((16, 16))
    for row in picks:
        for a, b in itertools.permutations(row, 2):
            wanted[a, b] += 1
    assert np.array_equal(pair_counts(picks, 16), wanted)


def test_annealing_keeps_group_sizes_and_gathers_pairs():
    picks = clustered(600)[:, 0]
    pairs = pair_counts(picks, 16)
    home = np.arange(16) % 4
    w = np.bincount(picks.ravel(), minlength=16).astype(float)

    def inside(of):
        return pairs[of[:, None] == of[None, :]].sum()

    before = inside(home)
    anneal_groups(pairs, np.zeros((16, 4)), 1 - np.eye(4), w, home, np.ones(4), 1.2, 20_000, 0)
    assert np.bincount(home).tolist() == [4, 4, 4, 4]
    assert inside(home) > 2 * before


def test_annealing_weighs_distance_and_pull():
    """Two pairs, four GPUs on two nodes: mates on one node; a pull decides which."""
    pairs = np.zeros((4, 4))
    pairs[0, 3] = pairs[3, 0] = pairs[1, 2] = pairs[2, 1] = 10.0
    distance = np.array([[0, 1, 5, 5], [1, 0, 5, 5], [5, 5, 0, 1], [5, 5, 1, 0]], dtype=float)
    pull = np.zeros((4, 4))
    pull[0, :2] = 100.0
    home = np.arange(4)
    anneal_groups(pairs, pull, distance, np.ones(4), home, np.ones(4), 1.2, 20_000, 0)
    assert sorted(home) == [0, 1, 2, 3]
    assert set(home[[0, 3]]) == {2, 3}
    assert set(home[[1, 2]]) == {0, 1}


def test_extra_gain_counts_visits_that_a_copy_saves():
    # Two GPUs; expert 2 stands alone on GPU 1 and is picked with experts of GPU 0.
    on = np.array([[True, False], [True, False], [False, True]])
    picks = np.array([[0, 1, 2], [0, 2, 1]])
    served, load = np.empty_like(picks), np.zeros(2)
    visits = cover_layer(picks, on, np.ones(2), ALIKE, 0.0, 0.0, load, served)
    assert visits == 4
    assert load.tolist() == [4, 2]
    gain = np.empty((3, 2))
    extra_gain(picks, served, on, ALIKE, gain)
    assert gain.tolist() == [[0, 0], [0, 0], [2, 0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trace": np.zeros((4, 2))}, "whole numbers"),
        ({"trace": np.zeros((4, 2, 3), dtype=int) + 99}, "outside 0 to 15"),
        ({"trace": np.zeros((4, 3, 3), dtype=int)}, "wants 2 layers"),
    ],
)
def test_bad_traces_are_named(change, message):
    picks = clustered(20)
    options = {"num_slots": 24, "num_gpus": 4, "trace": picks, **change}
    with pytest.raises(InputError, match=message):
        place_experts(count_picks(picks, 16), **options)


def test_bad_picks_are_named():
    placement = place_experts([[1, 2, 3]], num_slots=4, num_gpus=2)
    for bad, message in (
        ([[[3]]], "outside 0 to 2"),
        ([[[0], [1]]], "wants 1 layers"),
        ([[0]], "whole numbers"),
    ):
        with pytest.raises(InputError, match=message):
            dispatch(placement, bad)
