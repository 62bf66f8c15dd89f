"""Weights over real actors, as a program: ``weight_sync_on_ray.py DIRECTORY``; prints JSON."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from actors.runtime import running_ray
from actors.weight_sync import WeightReplica, WeightSource
from qcluster.codec.weight_sync import Acknowledgement, WeightUpdate, digest_of
from qcluster.q_compressor import compress
from qcluster.q_decompressor import decompress


class Deaf(WeightReplica):
    """Loses its third update."""

    def __init__(self) -> None:
        super().__init__()
        self.came = 0

    def apply(self, update: WeightUpdate) -> Acknowledgement:
        self.came += 1
        if self.came == 3:
            raise ConnectionError("lost on the way")
        return super().apply(update)


def weights(step: int) -> dict[str, np.ndarray]:
    w = np.random.default_rng(0).normal(size=(200, 100)).astype(np.float32)
    w[: step + 1, :7] += step
    return {"w": w, "step": np.array(step)}


def main() -> dict[str, Any]:
    import ray
    from ray.util.queue import Queue

    options: dict[str, Any] = {"num_cpus": 0}
    source = ray.remote(WeightSource).options(**options).remote()
    replicas = {
        "steady": ray.remote(WeightReplica).options(**options).remote(),
        "restarted": ray.remote(WeightReplica).options(**options, max_restarts=-1).remote(),
        "deaf": ray.remote(Deaf).options(**options).remote(),
    }
    told = []
    for step in range(4):
        if step == 2:
            ray.kill(replicas["restarted"], no_restart=False)
        told.append(ray.get(source.publish.remote(weights(step), replicas)))
    ends = {name: ray.get(replica.held.remote()) for name, replica in replicas.items()}
    there = ray.get(replicas["restarted"].weights.remote())
    through = Queue(actor_options=options)
    through.put(weights(1)["w"])
    through.put(compress(through, mode="max_abs", value=0.01))
    there_and_back = decompress(through, max_output_bytes=1 << 20)
    return {
        "queue": bool(np.abs(there_and_back - weights(1)["w"]).max() <= 0.01),
        "told": told,
        "ends": ends,
        "wanted": digest_of(weights(3)),
        "bits": all(there[k].tobytes() == v.tobytes() for k, v in weights(3).items()),
    }


if __name__ == "__main__":
    where = Path(sys.argv[1])
    with (
        tempfile.TemporaryDirectory(prefix="qc-", ignore_cleanup_errors=True) as temp,
        running_ray("local", where, temp),
    ):
        found = main()
    print(json.dumps(found))
