"""Nodes with replicas are ended by SIGTERM under load: answers to clients that never try again."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

__all__ = ["measure"]


def measure(*, quick: bool) -> dict[str, Any]:
    """By round: replicas that were on the node, answers until others stood in for them, bad ones;
    starts Ray nodes of its own.
    """
    from nodes import Nodes
    from servers import free_port

    from control_plane_parts.rolling import Plain, await_warm
    from deployments.app import ApiOptions, deploy, withdraw

    rounds: list[dict[str, Any]] = []
    port, wanted = free_port(), 3
    with TemporaryDirectory() as directory, Nodes(Path(directory)) as nodes:
        nodes.until(lambda: nodes.planned() == 6)
        deploy("127.0.0.1", port, ApiOptions(replicas=wanted))
        try:
            await_warm(f"http://127.0.0.1:{port}")
            for number in range(2 if quick else 7):
                victim = max(nodes.nodes, key=lambda node: _replicas().count(node.node_id))
                lost = _replicas().count(victim.node_id)
                with Plain(f"http://127.0.0.1:{port}") as load:
                    nodes.until(lambda load=load: load.answers > 50)
                    _raylet(victim).send_signal(signal.SIGTERM)
                    _raylet(victim).wait(60)
                    nodes.nodes.remove(victim)
                    nodes.add(f"{number + 3}")
                    nodes.until(lambda: nodes.planned() == 6)
                    nodes.until(lambda: len(_replicas()) == wanted)
                    more = load.answers + 50
                    nodes.until(lambda load=load, more=more: load.answers > more)
                row = {"replicas": lost, "answers": load.answers, "bad": load.bad}
                rounds.append({**row, "load": os.getloadavg()[0]})
                print(rounds[-1], flush=True)
        finally:
            withdraw()
    return {"rounds": rounds}


def _raylet(node: Any) -> Any:
    return node.all_processes["raylet"][0].process


def _replicas() -> list[str]:
    """The node of every living replica of the API, asked again while Ray is busy."""
    from ray.util.state import list_actors
    from ray.util.state.exception import RayStateApiException

    ends = time.monotonic() + 60.0
    while True:
        try:
            found = list_actors(filters=[("state", "=", "ALIVE")], limit=1000)
            return [a.node_id for a in found if "ServeReplica:qcluster-api" in a.class_name]
        except RayStateApiException:
            if time.monotonic() > ends:
                raise
            time.sleep(0.2)
