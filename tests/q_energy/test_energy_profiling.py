"""Choosing a power limit from few measurements: never too slow, near the oracle, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import InputError
from qcluster.q_energy import LimitChoice, choose_limit
from qcluster.q_energy.curves import speed

LIMITS = [100.0, 125.0, 150.0, 175.0, 200.0, 225.0, 250.0]


def sweep(demand: float, memory: float, noise: float = 0.0, seed: int = 0) -> dict[float, Any]:
    """(seconds, joules) of a made-up workload at each limit."""
    rng = np.random.default_rng(seed)
    out = {}
    for limit in LIMITS:
        took = (1 + noise * rng.normal()) / float(speed(limit, demand, 40.0, memory))
        out[limit] = (took, took * min(limit, demand))
    return out


def oracle(points: dict[float, Any], slack: float = 0.05) -> float:
    seconds, joules = points[max(points)]
    return 1 - min(e for t, e in points.values() if t <= seconds * (1 + slack)) / joules


@settings(max_examples=60, deadline=None)
@given(st.floats(60, 320), st.floats(0, 0.9), st.floats(0, 0.05), st.integers(0, 10**6))
def test_the_choice_is_measured_fast_enough_and_no_worse_than_no_limit(
    demand: float, memory: float, noise: float, seed: int
) -> None:
    points = sweep(demand, memory, noise, seed)
    found = choose_limit(LIMITS, points.__getitem__)
    assert len(found.measured) <= 4
    assert found.limit_w in found.measured[:, 0]
    assert found.slowdown <= 0.05 + 1e-12
    assert 0 <= found.saved <= oracle(points) + 1e-12
    assert all(points[limit] == (took, joules) for limit, took, joules in found.measured)
    everything = choose_limit(LIMITS, points.__getitem__, most=20)
    assert everything.saved == pytest.approx(oracle(points))


def test_smooth_workloads_reach_the_oracle_with_four() -> None:
    cases = [sweep(d, m) for d in range(80, 321, 20) for m in (0.0, 0.3, 0.6, 0.8)]
    ours = sum(choose_limit(LIMITS, c.__getitem__).saved for c in cases)
    assert ours >= 0.98 * sum(oracle(c) for c in cases)


def test_one_limit_or_one_measurement_is_the_reference() -> None:
    points = sweep(200, 0.3)
    for limits, most in (([250.0], 4), (LIMITS, 1)):
        found = choose_limit(limits, points.__getitem__, most=most)
        assert (found.limit_w, found.saved, found.slowdown) == (250.0, 0.0, 0.0)
    assert LimitChoice.from_dict(found.to_dict()) == found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"limits_w": []}, "limits_w"),
        ({"limits_w": [100.0, 100.0]}, "twice"),
        ({"limits_w": [0.0, 100.0]}, "above 0"),
        ({"limits_w": [float("nan")]}, "above 0"),
        ({"max_slowdown": -0.1}, "max_slowdown"),
        ({"max_slowdown": float("nan")}, "max_slowdown"),
        ({"most": 0}, "most"),
        ({"most": True}, "most"),
        ({"measure": lambda _: (0.0, 5.0)}, "at 250 W gave 0 s"),
        ({"measure": lambda _: (1.0, float("nan"))}, "measure"),
    ],
)
def test_bad_values_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        choose_limit(**{"limits_w": LIMITS, "measure": sweep(200, 0.3).__getitem__, **change})


def test_a_measurement_that_is_none_is_named() -> None:
    with pytest.raises(InputError, match=r"at 200 W gave 1; wants \(seconds, joules\)"):
        choose_limit([100, 200], lambda _: 1)  # type: ignore[arg-type, return-value]
