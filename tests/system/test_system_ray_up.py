"""``ray up cluster.yaml`` for real: two machines over ssh, agents on both, a lost worker, the end.

The configuration is the shipped file; hosts, keys and installation are this test's. Both machines
have a driver's double with GPUs, so the telemetry is taken for measured.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import hosts
import pytest
import yaml
from servers import ROOT, slowness

# What is promised (``slowness``), and how long to wait before a thing counts as never coming.
FIRST_PLAN_S, NEVER_S = 75.0, 300.0
BASHRC = """
export PYTHONPATH=$HOME/qcluster:$HOME/qcluster/tests/actors/driver
export FAKE_DRIVER=$HOME/gpus.json OMP_NUM_THREADS=1
"""

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(900),
    pytest.mark.skipif(hosts.why_not() is not None, reason=str(hosts.why_not())),
]


class Cluster:
    """What ``ray up`` has made, seen from outside."""

    def __init__(self, lab: hosts.Lab) -> None:
        self.lab = lab
        self.head = lab.host("head", 2, BASHRC)
        self.worker = lab.host("worker", 3, BASHRC)
        for host in (self.head, self.worker):
            (lab.directory / host.name / "gpus.json").write_text(json.dumps([{}, {}]))
        self.control = lab.directory / "control"
        self.control.mkdir()
        config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
        config["provider"] |= {"head_ip": self.head.address, "worker_ips": [self.worker.address]}
        config["auth"] = {"ssh_user": "root", "ssh_private_key": f"{hosts.SHARED}/key"}
        config |= {"min_workers": 1, "max_workers": 1}
        config["file_mounts"]["~/qcluster/tests/actors/driver"] = "tests/actors/driver"
        install, path = config["setup_commands"]
        assert "make" in install
        config["setup_commands"] = [f"ln -sfn {sys.prefix} ~/qcluster/.venv", path]
        (lab.directory / "cluster.yaml").write_text(yaml.safe_dump(config))
        self.began = time.monotonic()

    def ray(self, verb: str, *more: str) -> str:
        """``ray VERB cluster.yaml``, given on a machine beside the cluster."""
        command = [*hosts.python("from ray.scripts.scripts import main; main()"), verb]
        environment = {**os.environ, "PATH": hosts.PATH, "HOME": f"{hosts.SHARED}/control"}
        done = subprocess.run(
            self.lab.inside(*command, f"{hosts.SHARED}/cluster.yaml", "-y", *more),
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:]
        return done.stdout

    def get(self, path: str) -> Any:
        """JSON of a route, asked on the head; None while it does not answer with 200."""
        code = (
            "import sys, urllib.request as r; "
            f"sys.stdout.buffer.write(r.urlopen('http://127.0.0.1:8000{path}', timeout=5).read())"
        )
        text = self.head.run(sys.executable, "-S", "-c", code, check=False)
        return json.loads(text) if text else None

    def until(self, condition: Callable[[], Any], timeout_s: float) -> Any:
        ends = time.monotonic() + timeout_s
        while not (found := condition()):
            assert time.monotonic() < ends, f"not in {timeout_s} s:\n{self.logs()}"
            time.sleep(0.2)
        return found

    def logs(self) -> str:
        told = [f"{h.name}: {[*h.processes().values()]}" for h in (self.head, self.worker)]
        log = self.lab.directory / "head" / "qcluster-serve.log"
        if log.exists():
            told.append(log.read_text()[-4000:])
        return "\n".join(told)

    def alive(self) -> set[str]:
        """GPUs that answer, as the planners see them."""
        if not (found := self.get("/v1/telemetry/latest")):
            return set()
        snapshot = found["snapshot"]
        pairs = zip(snapshot["gpus"], snapshot["alive"], strict=True)
        return {gpu for gpu, alive in pairs if alive}


@pytest.fixture(scope="module")
def slow() -> float:
    return slowness()


@pytest.fixture(scope="module")
def cluster(slow: float, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    print(f"times are allowed {slow:.2f} times what is promised")
    with hosts.Lab(tmp_path_factory.mktemp("lab")) as lab:
        made = Cluster(lab)
        made.ray("up", "--no-config-cache")
        print(f"ray up returned: {time.monotonic() - made.began:.1f} s")
        yield made


ALL = {"head/0", "head/1", "worker/0", "worker/1"}


def test_plans_come_and_cover_both_machines(cluster: Cluster, slow: float) -> None:
    plan = cluster.until(lambda: cluster.get("/v1/plans/energy/latest"), NEVER_S)["plan"]
    took = time.monotonic() - cluster.began
    print(f"ray up to the first plan: {took:.1f} s")
    assert plan["telemetry"]["simulated"] is False
    cluster.until(lambda: cluster.alive() == ALL, NEVER_S)

    def of_both() -> Any:
        found = cluster.get("/v1/plans/energy/latest")
        nodes = {node["id"] for node in found["plan"]["nodes"]} if found else set()
        return found["plan"] if nodes == {"head", "worker"} else None

    both = cluster.until(of_both, NEVER_S)
    print(f"a plan for both machines: {time.monotonic() - cluster.began:.1f} s")
    assert set(both["gpus"]) == ALL
    assert took <= slow * FIRST_PLAN_S


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_lost_worker_is_noticed_and_replaced(how: int, cluster: Cluster) -> None:
    """Killed, and ended as ``ray stop`` ends it; neither leaves what waited for it."""
    cluster.until(lambda: cluster.alive() == ALL, NEVER_S)
    (raylet,) = [p for p, c in cluster.worker.processes().items() if re.match(r"\S+/raylet ", c)]
    lost = time.monotonic()
    os.kill(raylet, how)
    cluster.until(lambda: cluster.alive() == {"head/0", "head/1"}, NEVER_S)
    print(f"noticed by the planners: {time.monotonic() - lost:.1f} s")
    cluster.until(lambda: cluster.alive() == ALL, NEVER_S)
    print(f"replaced: {time.monotonic() - lost:.1f} s")
    waiting = [c for c in cluster.worker.processes().values() if "ray start --block" in c]
    assert len(waiting) == 1


def test_ray_down_leaves_nothing_of_ours(cluster: Cluster) -> None:
    cluster.ray("down")

    def left() -> dict[int, str]:
        found = cluster.head.processes() | cluster.worker.processes()
        return {pid: line for pid, line in found.items() if line and "sshd" not in line}

    ends = time.monotonic() + NEVER_S
    while (found := left()) and time.monotonic() < ends:
        time.sleep(0.5)
    assert not found, f"{found}\n{cluster.logs()}"
    print(f"nothing left after {NEVER_S - (ends - time.monotonic()):.0f} s")
