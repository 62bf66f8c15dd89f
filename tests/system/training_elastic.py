"""An elastic run on a local cluster of two nodes, as a program: ``training_elastic.py DIRECTORY``.

The second node is announced to go (drained), a new one comes, that one is killed, a third comes:
workers 2, 1, 2, 1, 2. At each of these moments the workers wait at a gate, so that nothing depends
on how fast anything is. The result is one JSON line.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training_worlds import CONFIG, Recorded, text, tiny

from actors.environment import cluster_environment, own_token
from qcluster.qtransformers import QuantumTrainer
from qcluster.qtransformers.callbacks import Callback
from qcluster.qtransformers.loop import TrainingLoop
from qcluster.qtransformers.trainer import RayOptions

STEPS = 20
GATES = {4: 2, 8: 1, 12: 2, 16: 1}
"""At which step workers wait, if they are so many, for the cluster to change under them."""
RUN = {**CONFIG, "micro_batch_size": None, "eval_every": None, "max_steps": STEPS, "save_every": 1}


class Gates(Callback):
    """Notes what every step read, and waits at the gates until this worker is ended."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def on_start(self, loop: TrainingLoop) -> None:
        self._note({"start": loop.step, "world": loop.workers.world})

    def on_step(self, loop: TrainingLoop) -> None:
        row = {"step": loop.step, "world": loop.workers.world, "rank": loop.workers.rank}
        self._note({**row, "read": loop.train.read[-1]})
        # Announced ends are heard of between steps, so that gate opens.
        opened = self.directory / f"open-{loop.step}"
        while GATES.get(loop.step) == loop.workers.world and not opened.exists():
            time.sleep(0.05)

    def _note(self, row: dict[str, Any]) -> None:
        with (self.directory / f"read-{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


def notes(directory: Path) -> Iterator[dict[str, Any]]:
    """All that workers noted, process by process."""
    for path in sorted(directory.glob("read-*.jsonl"), key=lambda p: p.stat().st_ctime_ns):
        yield from (json.loads(line) for line in path.read_text().splitlines() if line[-1:] == "}")


def wait_until(directory: Path, step: int) -> None:
    """All workers have noted the step at whose gate they wait."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        world = GATES[step]
        seen = {
            n["rank"] for n in notes(directory) if n.get("step") == step and n["world"] == world
        }
        if len(seen) == world:
            return
        time.sleep(0.1)
    raise TimeoutError(f"no {GATES[step]} workers came to step {step}")


def change(cluster: Any, directory: Path, second: Any) -> list[str]:
    """Drain, add, kill, add; what was done, in order."""
    from ray._raylet import GcsClient

    log = []
    wait_until(directory, 4)
    preemption, end_ms = 2, int((time.time() + 60) * 1e3)
    client = GcsClient(address=cluster.address)
    accepted, why = client.drain_node(second.node_id, preemption, "the test", end_ms)
    log.append(f"drained {accepted} {why}")
    (directory / "open-4").touch()
    wait_until(directory, 8)
    cluster.remove_node(second)
    third = cluster.add_node()
    log.append("added")
    wait_until(directory, 12)
    cluster.remove_node(third, allow_graceful=False)
    log.append("killed")
    wait_until(directory, 16)
    cluster.add_node()
    log.append("added")
    return log


def main(directory: Path, temp: str) -> dict[str, Any]:
    """Train in a thread; Ray starts nodes in the main one only."""
    os.environ.update(cluster_environment(own_token(directory)))
    os.environ["RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S"] = "0.5"
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "8"
    # Ray notes the cluster's address in this folder, which it expects to be there.
    os.environ["RAY_TMPDIR"] = temp
    Path(temp, "ray").mkdir(parents=True, exist_ok=True)
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "temp_dir": temp},
    )
    second = cluster.add_node()
    ray.init(address=cluster.address, log_to_driver=bool(os.environ.get("LOUD")))
    trainer = QuantumTrainer(
        tiny(dropout=0.0), Recorded(text(), 8), num_workers=(1, 2), config=RUN,
        directory=directory / "run", callbacks=[Gates(directory)],
        ray=RayOptions(resize_every_s=1.0),
    )  # fmt: skip
    try:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            running = pool.submit(trainer.train)
            log = change(cluster, directory, second)
            report = running.result()
    finally:
        ray.shutdown()
        cluster.shutdown()
    return {"log": log, "seen": list(notes(directory)), **report.to_dict()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="qc-", ignore_cleanup_errors=True) as scratch:
        print(json.dumps(main(Path(sys.argv[1]), scratch)))
