"""A Ray of fake nodes that a plan is handed over to; prints what Ray then says of itself.

Run as a process of its own, as Ray reads its variables once: ``python fake_nodes.py DIRECTORY``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actors.environment import SETTINGS

os.environ.update({**SETTINGS, "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": sys.argv[1]})

import ray
from ray import serve
from ray.cluster_utils import Cluster

from actors.hand_over import Replicas, hand_over

STORE = {"object_store_memory": 80_000_000}
PER_NODE, NODES, BUSY = 4, 6, 4


def gpus(*nodes: int) -> list[str]:
    return [f"n{node}/{i}" for node in nodes for i in range(PER_NODE)]


def joint(plan_id: str) -> dict[str, Any]:
    """Three nodes of a domain, a job over two domains, one node idle; domains of three nodes."""
    jobs = {"inside": gpus(0, 1), "across": [*gpus(2)[:2], *gpus(3)[:2]]}
    nodes = [{"id": f"n{i}", "active": i < BUSY} for i in range(NODES)]
    return {
        "planner": "joint",
        "nvlink": {"planner": "nvlink", "plan_id": plan_id, "assignment": jobs},
        "energy": {
            "planner": "energy", "plan_id": plan_id, "nodes": nodes,
            "active_accelerators": {"gpu": 3},
        },
    }  # fmt: skip


def until(answer: Callable[[], bool], limit_s: float = 120.0) -> bool:
    ends = time.monotonic() + limit_s
    while not answer():
        if time.monotonic() > ends:
            return False
        time.sleep(0.05)
    return True


def group_nodes(names: dict[str, str]) -> dict[str, list[str]]:
    """Group to its bundles' nodes, by our names."""
    table = ray.util.placement_group_table()
    return {
        row["name"]: [names.get(row["bundles_to_node_id"][i], "") for i in row["bundles"]]
        for row in table.values()
        if row["state"] == "CREATED"
    }


# Only the jobs' nodes have "room": a replica on one that the plan gives up would keep it busy.
@serve.deployment(
    name="Model", num_replicas=1, ray_actor_options={"num_cpus": 0, "resources": {"room": 1}}
)
class Model:
    def __call__(self) -> str:
        return "here"


def replicas() -> int:
    states = serve.status().applications["shop"].deployments["Model"].replica_states
    return int(states.get("RUNNING", 0))


def measure(cluster: Cluster) -> dict[str, Any]:
    names = {row["NodeID"]: row["Labels"].get("qcluster.io/node", "head") for row in ray.nodes()}
    dry = hand_over(joint("p0"))
    before = list(group_nodes(names))
    serve.run(Model.bind(), name="shop", route_prefix=None, external_scaler_enabled=True)
    want = [Replicas(app="shop", deployment="Model"), Replicas(app="none", deployment="Model")]
    began = time.monotonic()
    actions = hand_over(joint("p1"), apply=True, replicas=want)
    placed = until(lambda: len(group_nodes(names)) == 2)
    placed_s = time.monotonic() - began

    def living() -> set[str]:
        return {names[row["NodeID"]] for row in ray.nodes() if row["Alive"]}

    drained = until(lambda: not {"n4", "n5"} & living())
    again = hand_over(joint("p2"), apply=True)
    found = {
        "dry_calls": [action.says for action in dry],
        "groups_before": before,
        "actions": [action.to_dict() for action in actions],
        "placed": placed,
        "placed_s": placed_s,
        "groups": group_nodes(names),
        "drained": drained,
        "living": sorted(living()),
        "scaled": until(lambda: replicas() == 3),
        "again": [action.error for action in again if action.kind == "placement_group"],
        "demand": len(cluster_demand(cluster)),
    }
    # A whole domain's worth of GPUs is not to be had twice: it waits instead of crossing over.
    big = {"planner": "nvlink", "plan_id": "p3", "assignment": {"big": gpus(0, 1, 2)}}
    (group, _) = hand_over(big, apply=True, pin=False)
    found["big_done"] = group.done
    found["big_placed"] = until(lambda: "qcluster-big-p3" in group_nodes(names), 3.0)
    return found


def cluster_demand(cluster: Cluster) -> Any:
    """What the autoscaler is asked for, from where its clients leave it."""
    from ray._private import ray_constants
    from ray.experimental.internal_kv import _internal_kv_get

    del cluster
    kept = _internal_kv_get(ray_constants.AUTOSCALER_RESOURCE_REQUEST_CHANNEL)
    return json.loads(kept) if kept else []


def main() -> None:
    # Ray notes the cluster's address in this folder, which it expects to be there.
    Path(sys.argv[1], "ray").mkdir(exist_ok=True)
    head = {"num_cpus": 1, "num_gpus": 0, "include_dashboard": False, "temp_dir": sys.argv[1]}
    cluster = Cluster(initialize_head=True, head_node_args={**head, **STORE})
    try:
        for i in range(NODES):
            labels = {"ray.io/gpu-domain": f"d{i // 3}", "qcluster.io/node": f"n{i}"}
            room = {"room": 1} if i < BUSY else {}
            cluster.add_node(num_cpus=1, num_gpus=PER_NODE, labels=labels, resources=room, **STORE)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False, namespace="exports")
        sys.stdout.write(json.dumps(measure(cluster)))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
