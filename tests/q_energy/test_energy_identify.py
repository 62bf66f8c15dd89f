"""Which curve a GPU follows: the compiled loop against a plain one, and what must not matter."""

from __future__ import annotations

import numpy as np
import pytest

from qcluster.q_energy.curve_family import GRID, members
from qcluster.q_energy.identify import Sight, Sightings, doubt, identify, sight

N = 24
REACH, HELD_SPEED = 0.12, 0.985
MISFIT, NOISE = (0.03, 0.06), (0.03, 0.02)  # of log draw and log speed
UNKNOWN = 9.0  # variance of the log rate at full speed


def history(seed: int, readings: int, unit: float = 1.0) -> Sightings:
    """What is known of GPUs that follow curves of the family, some of whose readings are lost."""
    rng = np.random.default_rng(seed)
    draw, speed = (np.exp(part[rng.integers(0, 600, N)]) for part in members())
    tops, before, rows = np.full(N, 300.0), None, np.arange(N)
    at = np.full(N, 40)
    for k in range(readings):
        lost = rng.random((3, N)) < [[0.05], [0.3], [0.3]]
        power = 300.0 * draw[rows, at] * (1 + 0.01 * rng.standard_normal(N))
        told = [power, (speed[rows, at] < HELD_SPEED).astype(float), unit * speed[rows, at]]
        power, held, rate = (np.where(gone, np.nan, v) for gone, v in zip(lost, told, strict=True))
        before = sight(before, Sight(power, 300.0 * GRID[at], held, rate), tops, float(k))
        at = np.clip(at + rng.integers(-6, 7, N), 0, len(GRID) - 1)
    assert before is not None
    return before


def plain(seen: np.ndarray) -> np.ndarray:
    """(4, grid) of one GPU's memory (limits, 6): log draw, log speed and their deviations."""
    logs = members()
    used = seen[:, 0] >= 0
    fit = np.zeros(600)
    places, values, inverses = [], [], []
    for kind, column in ((0, 1), (1, 3)):
        rows = np.flatnonzero(used & np.isfinite(seen[:, column]))
        at, value = seen[rows, 0].astype(int), seen[rows, column]
        if kind == 1 and len(rows):
            value = value - value.mean()
        near = np.exp(-0.5 * ((GRID[at, None] - GRID[at]) / REACH) ** 2)
        covariance = MISFIT[kind] ** 2 * near + (UNKNOWN if kind else 0.0)
        covariance += np.diag(NOISE[kind] ** 2 / np.maximum(seen[rows, 2], 1.0))
        inverse = np.linalg.inv(covariance) if len(rows) else covariance
        off = value - logs[kind][:, at]
        fit -= 0.5 * np.einsum("ci,ij,cj->c", off, inverse, off)
        places.append(at), values.append(value), inverses.append(inverse)
    for row in seen[used]:
        if np.isfinite(row[4]):
            binds = logs[1][:, int(row[0])] < np.log(HELD_SPEED)
            fit -= 2.0 * (binds != (row[4] > 0.5))
    weight = np.exp(fit - fit.max())
    weight /= weight.sum()
    last = int(seen[np.argmax(seen[:, 5]), 0])
    means, spreads = [], []
    for kind in range(2):
        mean = np.log(weight @ np.exp(logs[kind]))
        at, off = places[kind], values[kind] - mean[places[kind]]
        near = np.exp(-0.5 * ((GRID[at, None] - GRID) / REACH) ** 2)
        means.append(mean + MISFIT[kind] ** 2 * (inverses[kind] @ off) @ near)
        apart = logs[kind] - logs[kind][:, last : last + 1]
        spreads.append(np.sqrt(np.maximum(weight @ apart**2 - (weight @ apart) ** 2, 0.0)))
    means[0] = np.minimum(means[0], np.log(GRID))
    return np.array([*means, *spreads])


@pytest.mark.parametrize("readings", [1, 2, 5, 30])
def test_the_compiled_loop_agrees_with_a_plain_one(readings: int) -> None:
    seen = history(readings, readings)
    found = np.array([*identify(seen), *doubt(seen)])
    for n in np.flatnonzero(seen.known):
        np.testing.assert_allclose(found[:, n], plain(seen.seen[n]), atol=3e-3)


def test_the_unit_of_work_does_not_matter() -> None:
    """Tokens or batches a second: only ratios between limits tell anything."""
    one, other = history(3, 12), history(3, 12, unit=1e6)
    np.testing.assert_allclose(identify(one), identify(other), atol=1e-6)
    np.testing.assert_allclose(doubt(one), doubt(other), atol=1e-6)


def test_what_is_known_of_one_gpu_says_nothing_of_another() -> None:
    seen = history(4, 9)
    alone = Sightings(seen=seen.seen[5:6], ts_s=seen.ts_s)
    np.testing.assert_array_equal(np.array(identify(seen))[:, 5], np.array(identify(alone))[:, 0])


def test_the_answer_made_monotone_never_falls_and_stays_within_full_speed() -> None:
    power, speed = history(5, 20).rising
    assert (np.diff(power, axis=1) >= 0).all()
    assert (np.diff(speed, axis=1) >= 0).all()
    assert speed.max() <= 0.0
