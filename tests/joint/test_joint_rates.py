"""The model of a step: rates, stretch, and the bound that no plan goes below."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_lab import snapshot, without

from qcluster.joint.rates import DETOUR, bound, job_stretch, link_shares, rates, stretch


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.0, 0.9))
def test_no_loads_and_no_speeds_within_the_sum_go_below_the_bound(seed, share):
    rng = np.random.default_rng(seed)
    gpus, layers = int(rng.integers(1, 8)), int(rng.integers(1, 4))
    alive = np.ones(gpus, dtype=bool)
    speed = rng.uniform(0.2, 1.0, gpus)
    links = rng.choice([1.0, 0.5], gpus)
    rate = rates(speed, links, share)
    # The best loads for these rates: in proportion to them.
    loads = rng.uniform(1, 5, (layers, 1)) * rate / rate.sum()
    least = bound(float(speed.sum()), gpus, share)
    assert stretch(loads, rate, alive) >= least - 1e-9
    assert stretch(rng.uniform(0, 1, (layers, gpus)), rate, alive) >= least - 1e-9
    groups = [list(part) for part in np.array_split(rng.permutation(gpus), 2) if len(part)]
    assert job_stretch(groups, speed) >= bound(float(speed.sum()), gpus, 0.0) - 1e-9


def test_the_bound_is_reached_by_equal_speeds_and_even_loads():
    rate = rates(np.full(6, 0.8), np.ones(6), 0.25)
    assert stretch(np.ones((3, 6)), rate, np.ones(6, bool)) == pytest.approx(bound(4.8, 6, 0.25))


def test_a_step_lasts_as_long_as_its_slowest_gpu_layer_by_layer():
    loads = np.array([[4.0, 1.0], [1.0, 4.0]])
    rate = np.array([1.0, 0.5])
    assert stretch(loads, rate, np.ones(2, bool)) == pytest.approx((4.0 + 8.0) / 5.0)


def test_dead_gpus_are_no_part_of_the_ideal_and_may_hold_nothing():
    alive = np.array([True, True, False])
    rate = rates(np.array([1.0, 1.0, 0.0]), np.ones(3), 0.3)
    assert rate.tolist() == [1.0, 1.0, 0.0]
    assert stretch(np.array([[1.0, 1.0, 0.0]]), rate, alive) == pytest.approx(1.0)
    assert stretch(np.array([[1.0, 1.0, 0.1]]), rate, alive) == np.inf


def test_no_tokens_take_no_longer_than_none():
    assert stretch(np.zeros((2, 3)), np.ones(3), np.ones(3, bool)) == 1.0


def test_a_job_waits_for_its_slowest_gpu():
    assert job_stretch([[0, 1], [2]], np.array([1.0, 0.5, 1.0])) == pytest.approx(5.0 / 3.0)
    assert job_stretch([], np.ones(2)) == 1.0


def test_unknown_sums_give_the_bound_of_full_speed():
    assert bound(None, 4, 0.2) == 1.0
    assert bound(10.0, 4, 0.2) == 1.0
    assert bound(2.0, 0, 0.2) == 1.0


def test_lost_links_count_by_bandwidth_and_never_to_nothing():
    shown = snapshot()
    topology, up = shown.topology, np.ones(len(shown.topology.links))
    assert (link_shares(shown) == 1.0).all()
    first = topology.gpu_ids[0]
    mine = [
        i
        for i, link in enumerate(topology.links)
        if first in (link.source, link.target) and link.kind == "nvlink"
    ]
    up[mine] = 0.5
    half = link_shares(without(shown, link={**shown.link, "link_up": up}))
    assert half[0] == pytest.approx(0.5)
    assert (half[1:] == 1.0).all()
    up[mine] = 0.0
    assert link_shares(without(shown, link={**shown.link, "link_up": up}))[0] == DETOUR
    up[mine] = np.nan
    assert link_shares(without(shown, link={**shown.link, "link_up": up}))[0] == 1.0
    assert (link_shares(without(shown, link={})) == 1.0).all()
