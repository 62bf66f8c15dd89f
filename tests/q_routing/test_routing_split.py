"""The weighted split: against the linear programme, its own bound, and water by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import InputError
from qcluster.q_routing import place_experts, split_load
from qcluster.q_routing._split_kernels import fill
from qcluster.q_routing.split import split


def programme(placement, w, layer):
    """Least largest GPU time by HiGHS."""
    from scipy.optimize import linprog

    slots = placement.slots[layer]
    used = np.flatnonzero(slots >= 0)
    n = len(used)
    alive = placement.speed > 0
    above = np.zeros((placement.num_gpus, n + 1))
    above[placement.gpu_of_slot[used], np.arange(n)] = 1
    above[:, -1] = -placement.speed
    equal = np.zeros((placement.num_experts, n + 1))
    equal[slots[used], np.arange(n)] = 1
    cost = np.append(np.zeros(n), 1.0)
    found = linprog(cost, above[alive], np.zeros(alive.sum()), equal, w[layer], method="highs")
    return found.fun


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(0, 12))
@settings(max_examples=15, deadline=None)
def test_within_a_permille_of_the_linear_programme(seed, gpus, spare):
    rng = np.random.default_rng(seed)
    planned, real = rng.integers(0, 90, (2, 2, 12))
    placement = place_experts(planned, num_slots=12 + spare + gpus, num_gpus=gpus)
    found = split(placement, real)
    for layer in range(2):
        best = programme(placement, real, layer)
        assert found.time[layer] <= best * 1.001 + 1e-9
        assert found.lower_bound[layer] <= best * (1 + 1e-9) + 1e-9


def test_every_expert_s_load_is_carried_and_none_is_negative():
    rng = np.random.default_rng(1)
    load = rng.integers(0, 500, (4, 32))
    placement = place_experts(load[::-1], num_slots=48, num_gpus=8, alive=np.arange(8) != 2)
    carried = split_load(placement, load)
    assert carried.shape == placement.slots.shape
    assert (carried >= 0).all()
    assert (carried[placement.slots < 0] == 0).all()
    for layer in range(4):
        row = placement.slots[layer]
        total = np.bincount(row[row >= 0], carried[layer][row >= 0], minlength=32)
        assert total == pytest.approx(load[layer])


def test_beats_the_equal_split_and_respects_speed():
    rng = np.random.default_rng(2)
    planned, real = rng.multinomial(9000, rng.dirichlet(np.ones(32)), size=(2, 3))
    placement = place_experts(planned, num_slots=64, num_gpus=8, speed=[1] * 6 + [3, 3])
    found = split(placement, real)
    assert found.balancedness > placement.balancedness_on(real)
    assert found.lower_bound == pytest.approx(found.time, rel=1e-3)


def test_water_fills_to_one_level():
    part = np.empty(3)
    fill(10.0, np.array([1.0, 3.0, 100.0]), np.array([1.0, 2.0, 1.0]), part)
    level = (10 + 1 + 6) / 3
    assert part == pytest.approx([level - 1, 2 * (level - 3), 0.0])
    fill(0.5, np.array([1.0, 3.0, 100.0]), np.ones(3), part)
    assert part == pytest.approx([0.5, 0.0, 0.0])


def test_bad_input_is_named():
    placement = place_experts([[1, 2, 3]], num_slots=4, num_gpus=2)
    with pytest.raises(InputError, match="wants shape"):
        split_load(placement, [[1, 2]])
    with pytest.raises(InputError, match="finite load"):
        split_load(placement, [[1, 2, np.nan]])
    with pytest.raises(InputError, match="tolerance"):
        split(placement, [[1, 2, 3]], tolerance=0.0)
