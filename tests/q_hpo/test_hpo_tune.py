"""The searchers in real Ray Tune sweeps: killed drivers, faulty trials, all domains.

One Ray for the module, in a process of its own; every sweep is a driver process that can be killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tune_driver import SPACE, draw, loss

from qcluster.q_hpo import GPSearch, Study, load_prior
from qcluster.q_hpo.ray_results import ray_trials

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DRIVER = HERE / "tune_driver.py"

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]


class Ray:
    """A Ray in a process of its own, and drivers on it."""

    def __init__(self, home: Path) -> None:
        self.environment = {
            **os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token", "TUNE_GLOBAL_CHECKPOINT_S": "1",
            "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "0",
        }  # fmt: skip
        self.environment.pop("RAY_ADDRESS", None)
        self.process = subprocess.Popen(
            [sys.executable, str(DRIVER), "ray", "8"], env=self.environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address, "no Ray"

    def driver(self, mode: str, options: dict[str, Any]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(DRIVER), mode, json.dumps({"address": self.address, **options})],
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def finish(self, mode: str, options: dict[str, Any]) -> Any:
        child = self.driver(mode, options)
        out, err = child.communicate(timeout=300)
        assert child.returncode == 0, err[-4000:]
        # Ray writes to standard output too, at the end as well.
        return json.loads(next(line for line in out.splitlines() if line.startswith("{")))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(60)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ray]:
    running = Ray(tmp_path_factory.mktemp("home"))
    try:
        yield running
    finally:
        running.close()


def options(directory: Path, **more: Any) -> dict[str, Any]:
    directory.mkdir(exist_ok=True)
    return {"directory": str(directory), "seconds": 0.2, "faults": False, "restore": False,
            "samples": 12, "concurrency": 1, "retries": 0, **more}  # fmt: skip


def killed(cluster: Ray, wanted: dict[str, Any], moments: list[int]) -> Any:
    """The sweep, its driver killed by SIGKILL each time so many more trials have run."""
    log = Path(wanted["directory"], "ran.jsonl")

    def ran() -> int:
        return len(log.read_text().splitlines()) if log.exists() else 0

    for i, more in enumerate(moments):
        child = cluster.driver("sweep", {**wanted, "restore": i > 0})
        target = ran() + more
        while ran() < target:
            assert child.poll() is None, (child.communicate()[1][-3000:], ran(), target)
            time.sleep(0.02)
        child.kill()
        child.communicate()
    return cluster.finish("sweep", {**wanted, "restore": True})


def undisturbed(samples: int) -> list[tuple[Any, ...]]:
    """The same search without Ray."""
    search = GPSearch(metric="loss", mode="min", seed=3)
    search.set_search_properties(None, None, SPACE)
    for i in range(samples):
        config = search.suggest(str(i))
        assert config is not None
        result = {"loss": loss(config), "training_iteration": 1, "config": config}
        search.on_trial_complete(str(i), result)
    assert search.study is not None
    return [(t.number, t.config, t.value) for t in search.study.history]


def test_a_killed_driver_goes_on_with_the_same_suggestions(cluster: Ray, tmp_path: Path) -> None:
    found = killed(cluster, options(tmp_path / "killed", samples=9), [5])
    assert found["trials"] == 9
    assert [(t["number"], t["config"], t["value"]) for t in found["study"]] == undisturbed(9)


def test_killed_at_concurrency_eight_no_observation_is_lost_or_doubled(
    cluster: Ray, tmp_path: Path
) -> None:
    found = killed(cluster, options(tmp_path, samples=24, concurrency=8), [12])
    assert found["trials"] == len(found["study"]) == 24
    assert {t["status"] for t in found["study"]} == {"ok"}
    assert len({json.dumps(t["config"], sort_keys=True) for t in found["study"]}) == 24
    assert all(t["value"] == loss(t["config"]) for t in found["study"])
    # What Ray keeps is what the searcher learnt.
    ray = {t.result["loss"] for t in ray_trials(tmp_path / "results" / "sweep")}
    assert ray == {t["value"] for t in found["study"]}


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
        command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
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
        cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False,
        env={**cluster.environment, "RAY_ADDRESS": cluster.address},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert word in done.stdout
