"""The telemetry hub as an actor: age of what planners see, samples a second, bounded memory.

    python benchmarks/hub.py [--quick]

Starts a Ray of its own. 180 nodes of 4 GPUs report 40 values a GPU once a second, spread over the
second, in processes of their own; one subscriber reads as fast as it can, three like planners every
2 s, one is slow on purpose. Ages are counted from just before the push, so they hold the way to the
hub as well. Memory is the hub's resident set.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from harness import arguments, save, table

NODES, PER_NODE, METRICS = 180, 4, 40
BAR_MS, BAR_RATE = 250.0, 100_000
PUSHERS = 2


class Watcher:
    """A subscriber: how old each snapshot is when it is there, and how many batches it missed."""

    def follow(self, seconds: float, pause_s: float) -> dict[str, Any]:
        from actors.cluster import HUB, connect

        hub = connect(HUB)
        ages, missed, since = [], 0, 0
        hub.wait(0, 1.0)  # the first snapshot imports what it is made of
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if (snapshot := hub.wait(since, 1.0)) is None:
                continue
            ages.append(time.time() - snapshot.ts_s)
            missed += snapshot.seq - since - 1 if since else 0
            since = snapshot.seq
            time.sleep(pause_s)
        return {"ages": ages, "missed": missed}


class Pusher:
    """A share of the nodes."""

    def __init__(self, nodes: list[str]) -> None:
        from qcluster.telemetry import METRICS as KNOWN
        from qcluster.telemetry import Node, Topology

        self.topologies = {name: Topology(nodes=(Node(id=name, gpus=PER_NODE),)) for name in nodes}
        self.names = [m.name for m in KNOWN.values() if m.entity == "gpu"]
        self.rng = np.random.default_rng(len(nodes))

    def batch(self, node: str, *, first: bool = False) -> Any:
        from qcluster.telemetry import Batch, Block

        topology = self.topologies[node]
        values = {name: self.rng.random(PER_NODE) for name in self.names}
        # As many values as 40 metrics have: the schema's are sent in more than one block.
        repeats = -(-METRICS // len(self.names))
        blocks = tuple(Block.of("gpu", topology.gpu_ids, values) for _ in range(repeats))
        return Batch(
            source=f"nvml:node={node}",
            ts_s=time.time(),
            blocks=blocks,
            topology=topology if first else None,
        )

    def pace(self, seconds: float) -> int:
        """Every node once a second, evenly spread; returns how many values were sent."""
        from actors.cluster import HUB, connect

        hub, sent = connect(HUB), 0
        nodes = list(self.topologies)
        sent += hub.push([self.batch(node, first=True) for node in nodes])
        began, count = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            sent += hub.push([self.batch(nodes[count % len(nodes)])])
            count += 1
            time.sleep(max(0.0, began + count / len(nodes) - time.monotonic()))
        return sent

    def flood(self, seconds: float) -> int:
        """As many values as the hub takes, a second of all nodes at a time."""
        from actors.cluster import HUB, connect

        hub, sent = connect(HUB), 0
        nodes = list(self.topologies)
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            sent += hub.push([self.batch(node) for node in nodes])
        return sent


def hub_process() -> psutil.Process:
    for process in psutil.Process().children(recursive=True):
        if "TelemetryHub" in " ".join(process.cmdline()):
            return process
    raise RuntimeError("the hub has no process")


def measure(seconds: float) -> dict[str, Any]:
    import ray

    from actors.cluster import HUB, _actor, connect
    from actors.hub import TelemetryHub

    _actor(TelemetryHub, HUB).remote(())
    hub = connect(HUB)
    hub.health()
    names = [f"n{i}" for i in range(NODES)]
    watcher = ray.remote(Watcher).options(num_cpus=0)
    pusher = ray.remote(Pusher).options(num_cpus=0)
    pushers = [pusher.remote(names[i::PUSHERS]) for i in range(PUSHERS)]
    watchers = {"fast": watcher.remote(), "slow": watcher.remote()}
    watchers |= {f"planner {i}": watcher.remote() for i in range(3)}
    pauses = {"fast": 0.0, "slow": 5.0}
    pushed = [one.pace.remote(seconds + 4.0) for one in pushers]
    time.sleep(2.0)
    process = hub_process()
    memory = [process.memory_info().rss]
    seen = {
        name: one.follow.remote(seconds, pauses.get(name, 2.0)) for name, one in watchers.items()
    }
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        time.sleep(1.0)
        memory.append(process.memory_info().rss)
    found = {name: ray.get(reference) for name, reference in seen.items()}
    paced = sum(ray.get(pushed))
    cpu = sum(process.cpu_times()[:2])
    began = time.monotonic()
    flooded = sum(ray.get([one.flood.remote(seconds / 3) for one in pushers]))
    wall = time.monotonic() - began
    cpu = sum(process.cpu_times()[:2]) - cpu
    half = memory[len(memory) // 2 :]
    return {
        "seconds": seconds,
        "load": os.getloadavg()[0],
        "paced_samples_per_s": paced / (seconds + 4.0),
        "ages_ms": {
            name: {
                "n": len(one["ages"]),
                "p50": float(np.percentile(one["ages"], 50)) * 1e3,
                "p99": float(np.percentile(one["ages"], 99)) * 1e3,
                "max": max(one["ages"]) * 1e3,
                "missed": one["missed"],
            }
            for name, one in found.items()
        },
        "flood_samples_per_s": flooded / wall,
        "flood_samples_per_core_s": flooded / cpu,
        "rss_mb": [memory[0] / 1e6, max(memory) / 1e6, process.memory_info().rss / 1e6],
        "rss_growth_second_half_mb": (half[-1] - half[0]) / 1e6,
    }


def main() -> None:
    chosen = arguments(__doc__ or "")
    root = Path(__file__).resolve().parent
    os.environ["PYTHONPATH"] = os.pathsep.join([str(root.parent), str(root)])
    sys.path[:0] = [str(root.parent)]
    from actors.runtime import running_ray

    with (
        tempfile.TemporaryDirectory(prefix="qc-", dir="/tmp", ignore_cleanup_errors=True) as temp,
        tempfile.TemporaryDirectory() as state,
        running_ray("local", Path(state), temp),
    ):
        found = measure(15.0 if chosen.quick else 60.0)
    table(
        f"Age of what a subscriber sees, ms, at {found['paced_samples_per_s']:.0f} samples/s"
        f" (bar: p99 <= {BAR_MS:g}; load {found['load']:.1f})",
        ("subscriber", "snapshots", "p50", "p99", "max", "batches missed"),
        [
            (name, age["n"], age["p50"], age["p99"], age["max"], age["missed"])
            for name, age in found["ages_ms"].items()
        ],
    )
    table(
        "The hub",
        ("what", "measured", "bar"),
        [
            ("samples/s, flooded", found["flood_samples_per_s"], BAR_RATE),
            ("samples/s of its CPU time", found["flood_samples_per_core_s"], BAR_RATE),
            ("memory, MB: start, most, end", str([round(mb) for mb in found["rss_mb"]]), "bounded"),
            ("growth in the second half, MB", found["rss_growth_second_half_mb"], ""),
        ],
    )
    save("hub", found, ("ray",))


if __name__ == "__main__":
    main()
