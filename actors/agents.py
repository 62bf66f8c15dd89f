"""Keeps one agent on every node that has GPUs, as nodes join and leave.

Knows nodes by their cluster id, because a machine that comes back is a new node with an old name.
What a cluster is stands behind ``Cluster``, so that this runs without Ray in tests.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["AgentKeeper", "Cluster"]

# A driver may be loaded after the node has joined.
_PROBE_AGAIN_S = 30.0


class Cluster(Protocol):
    """The nodes, and what can be done on one. Calls may raise; they are made again."""

    def nodes(self) -> Mapping[str, str]:
        """Living nodes: id and host name."""
        ...

    def driver(self, node_id: str) -> str:
        """The state of the GPU driver on a node, ``ready`` when there are GPUs."""
        ...

    def start(self, node_id: str, name: str) -> None:
        """Start the node's agent; nothing happens when it is there."""
        ...

    def forget(self, node_id: str, name: str) -> None:
        """The node has left: end its agent if it is there, and have its readings forgotten."""
        ...


class AgentKeeper:
    """Follows the cluster for as long as the process lives.

    Parameters
    ----------
    cluster: where agents are started.
    period_s: seconds between looks at the nodes.
    """

    def __init__(self, cluster: Cluster, period_s: float = 0.5) -> None:
        self._cluster, self._period_s = cluster, period_s
        self._agents: dict[str, str] = {}
        self._without: dict[str, tuple[float, str]] = {}
        self._alarm: str | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="agents", daemon=True)
        self._thread.start()

    def health(self) -> dict[str, Any]:
        """Nodes with an agent (id and name), nodes without one and why, and what went wrong."""
        return {
            "agents": dict(self._agents),
            "without": {node: state for node, (_, state) in self._without.items()},
            "alarm": self._alarm,
        }

    def stop(self) -> list[str]:
        """End the loop; returns the ids of the nodes that have agents."""
        self._stopped.set()
        self._thread.join(30.0)
        return list(self._agents)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._alarm = self._look()
            except Exception as error:  # the cluster is busy or restarting: look again
                self._alarm = f"{type(error).__name__}: {error}".splitlines()[0]
            self._stopped.wait(self._period_s)

    def _look(self) -> str | None:
        """Bring the agents in line with the nodes; returns the alarm of this look."""
        living = self._cluster.nodes()
        for node in [node for node in self._agents if node not in living]:
            self._cluster.forget(node, self._agents.pop(node))
        self._without = {node: seen for node, seen in self._without.items() if node in living}
        alarm = None
        for node, name in living.items():
            if self._stopped.is_set() or node in self._agents or not self._due(node):
                continue
            try:
                self._settle(node, name)
            except Exception as error:  # it may be leaving again; the others come first
                alarm = f"{name}: {type(error).__name__}: {error}".splitlines()[0]
        return alarm

    def _due(self, node: str) -> bool:
        return time.monotonic() >= self._without.get(node, (0.0, ""))[0]

    def _settle(self, node: str, name: str) -> None:
        state = self._cluster.driver(node)
        if state != "ready":
            self._without[node] = (time.monotonic() + _PROBE_AGAIN_S, state)
            return
        if name in self._agents.values():
            name = f"{name}-{node[:8]}"
        self._cluster.start(node, name)
        self._agents[node] = name
        self._without.pop(node, None)
