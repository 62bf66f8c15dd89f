"""Ray Tune sweeps whose driver is killed again and again, and whose trials fail in every way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tune_driver import draw, loss
from tune_lab import Ray, killed, options, undisturbed

from qcluster.q_hpo.ray_results import ray_trials

pytestmark = [pytest.mark.system, pytest.mark.timeout(580)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ray]:
    running = Ray(tmp_path_factory.mktemp("home"))
    try:
        yield running
    finally:
        running.close()


def test_killed_three_times_the_suggestions_are_those_of_an_undisturbed_search(
    cluster: Ray, tmp_path: Path
) -> None:
    found = killed(cluster, options(tmp_path, samples=14), [3, 4, 3])
    assert found["trials"] == 14
    assert [(t["number"], t["config"], t["value"]) for t in found["study"]] == undisturbed(14)


def test_killed_three_times_at_concurrency_eight_no_observation_is_lost_or_doubled(
    cluster: Ray, tmp_path: Path
) -> None:
    found = killed(cluster, options(tmp_path, samples=40, concurrency=8), [7, 11, 9])
    assert found["trials"] == len(found["study"]) == 40
    assert {t["status"] for t in found["study"]} == {"ok"}
    assert len({json.dumps(t["config"], sort_keys=True) for t in found["study"]}) == 40
    assert all(t["value"] == loss(t["config"]) for t in found["study"])
    ray = {t.result["loss"] for t in ray_trials(tmp_path / "results" / "sweep")}
    assert ray == {t["value"] for t in found["study"]}


@pytest.mark.parametrize("retries", [0, 1])
def test_faulty_trials_and_a_killed_driver_lose_and_hang_nothing(
    retries: int, cluster: Ray, tmp_path: Path
) -> None:
    """30 % NaN, 20 % exceptions, 10 % killed workers; with ``retries`` Ray runs those again."""
    wanted = options(tmp_path, samples=60, concurrency=8, faults=True, retries=retries, seconds=0.1)
    found = killed(cluster, wanted, [20])
    assert found["trials"] == len(found["study"]) == 60
    for trial in found["study"]:
        share = draw(trial["config"])
        assert trial["status"] == ("failed" if share < 0.3 else "nan" if share < 0.6 else "ok")
