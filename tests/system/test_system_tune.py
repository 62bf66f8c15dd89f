"""The searchers in real Ray Tune sweeps, in one Ray.

Drivers are killed again and again, trials fail in every way; all domains, and the examples. After
a kill Ray's own table may lack the last trials, which the searcher was told of: all count once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tune_driver import SPACE, draw, loss
from tune_lab import PATIENCE, ROOT, Ray, killed, options, undisturbed

from qcluster.q_hpo import Study, load_prior
from qcluster.q_hpo.ray_results import ray_trials

pytestmark = [pytest.mark.system, pytest.mark.timeout(2 * PATIENCE)]


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
    assert found["trials"] + found["lost"] == len(found["study"]) == 14
    assert [(t["number"], t["config"], t["value"]) for t in found["study"]] == undisturbed(14)


def test_killed_three_times_at_concurrency_eight_no_observation_is_lost_or_doubled(
    cluster: Ray, tmp_path: Path
) -> None:
    found = killed(cluster, options(tmp_path, samples=40, concurrency=8), [7, 11, 9])
    assert found["trials"] + found["lost"] == len(found["study"]) == 40
    assert {t["status"] for t in found["study"]} == {"ok"}
    assert len({json.dumps(t["config"], sort_keys=True) for t in found["study"]}) == 40
    assert all(t["value"] == loss(t["config"]) for t in found["study"])
    # By configuration: corners of the space have one and the same loss.
    told = {json.dumps(t["config"], sort_keys=True): t["value"] for t in found["study"]}
    ray = [(json.dumps({name: t.config[name] for name in SPACE}, sort_keys=True), t.result["loss"])
           for t in ray_trials(tmp_path / "results" / "sweep")]  # fmt: skip
    assert len(dict(ray)) == len(ray) == 40 - found["lost"]
    assert dict(ray).items() <= told.items()


@pytest.mark.parametrize("retries", [0, 1])
def test_faulty_trials_and_a_killed_driver_lose_and_hang_nothing(
    retries: int, cluster: Ray, tmp_path: Path
) -> None:
    """30 % NaN, 20 % exceptions, 10 % killed workers; with ``retries`` Ray runs those again."""
    wanted = options(tmp_path, samples=60, concurrency=8, faults=True, retries=retries, seconds=0.1)
    found = killed(cluster, wanted, [20])
    assert found["trials"] + found["lost"] == len(found["study"]) == 60
    for trial in found["study"]:
        share = draw(trial["config"])
        assert trial["status"] == ("failed" if share < 0.3 else "nan" if share < 0.6 else "ok")


def test_injected_faults_lose_and_hang_nothing(cluster: Ray, tmp_path: Path) -> None:
    """30 % NaN, 20 % exceptions, 10 % killed workers, eight at a time."""
    found = cluster.finish(
        "sweep", options(tmp_path, samples=30, concurrency=8, faults=True, seconds=0.05)
    )
    assert len(found["study"]) == found["trials"] == 30
    ends = {"failed": 0, "nan": 0, "ok": 0}
    for trial in found["study"]:
        share = draw(trial["config"])
        assert trial["status"] == ("failed" if share < 0.3 else "nan" if share < 0.6 else "ok")
        ends[trial["status"]] += 1
    assert min(ends.values()) > 0
    space = {"x": {"type": "uniform", "low": -5, "high": 5},
             "lr": {"type": "loguniform", "low": 1e-5, "high": 1e-1},
             "kind": {"type": "choice", "values": ["a", "b"]}}  # fmt: skip
    # Ray's own result directory is a prior for the next search.
    prior = load_prior(tmp_path / "results" / "sweep", space)
    assert len(prior.values) == 30
    table = load_prior(tmp_path / "results.csv", space, metric="loss")  # of its ResultGrid
    assert sorted(v for v in table.values if v is not None) == pytest.approx(
        sorted(v for v in prior.values if v is not None)
    )
    good = sorted(v for v in prior.values if v is not None)
    assert good == sorted(t["value"] for t in found["study"] if t["value"] is not None)
    assert Study(space, prior=prior, seed=0).ask().config["kind"] in "ab"


def test_scripts_for_optunasearch_run_in_a_tuner(cluster: Ray, tmp_path: Path) -> None:
    """Ray's own validation of spaces and configurations, over all domains, three trials each."""
    found = cluster.finish("spaces", {"directory": str(tmp_path)})
    assert len(found) >= 6
    for name, line in found.items():
        assert line == {"trials": 3, "errors": 0, "told": 3}, name


def test_the_verb_as_a_sweep(cluster: Ray, tmp_path: Path) -> None:
    """Trials that raise, and workers that die: told once, run again, nothing left running."""
    (tmp_path / "space.yaml").write_text("x: {type: uniform, low: 0, high: 1}\n")
    (tmp_path / "hpo_tune_objective.py").write_text(
        "import os, pathlib, signal\n"
        "def loss(config):\n"
        "    mark = pathlib.Path(__file__).with_name('died')\n"
        "    if not mark.exists():\n"
        "        mark.touch()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    if config['x'] > 0.7:\n        raise MemoryError('too large')\n"
        "    return {'value': config['x'], 'other': 1}\n"
    )
    command = [sys.executable, "-m", "qcluster", "hpo", "space.yaml", "--objective",
               "hpo_tune_objective:loss", "-n", "6", "--workers", "2", "--json"]  # fmt: skip
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False,
        env={**cluster.environment, "RAY_ADDRESS": cluster.address},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["trials"] == 6
    assert "running" not in found["statuses"]
    assert "MemoryError: too large" in done.stderr
    assert (tmp_path / "died").exists()
    values = [t.value for t in Study.load(tmp_path / "hpo" / "journal.jsonl").history]
    assert sum(v is None for v in values) == found["statuses"].get("failed", 0)


EXAMPLES = [
    ("hpo_sklearn.py", ["--trials", "7"], "best of 7"),
    ("hpo_torch_asha.py", ["--trials", "8", "--epochs", "4"], "trials were stopped"),
    ("hpo_planner.py", ["--trials", "8"], "tokens/s"),
    ("hpo_planner.py", ["--trials", "8", "--table", "table.csv"], "tokens/s"),
    ("hpo_serving.py", [], "trials crashed"),
]


@pytest.mark.parametrize(("name", "arguments", "word"), EXAMPLES)
def test_examples_run(
    name: str, arguments: list[str], word: str, cluster: Ray, tmp_path: Path
) -> None:
    lines = ["cfg-a,cfg-b,cfg-c,obj-output_throughput+"]
    for i in range(60):
        value = "" if i % 3 == 0 else str(100 + (i * 7) % 31)
        lines.append(f"{i},{'xy'[i % 2]},{bool(i % 5)},{value}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False,
        env={**cluster.environment, "RAY_ADDRESS": cluster.address},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert word in done.stdout
