"""Several Ray nodes on this machine, each with GPUs of a driver's double of its own."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent
DRIVER = ROOT / "tests" / "actors" / "driver"
FULL_MW = 700_000


class Nodes:
    """A cluster of ``count`` nodes with two GPUs each, hub, store, planners and agents up.

    Parameters
    ----------
    directory: for state and the drivers' files.
    """

    def __init__(self, directory: Path, count: int = 3) -> None:
        import ray
        from ray.cluster_utils import Cluster

        from actors.cluster import HUB, STORE, connect, start_cluster

        self._path_before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(
            [str(DRIVER), str(ROOT), self._path_before or ""]
        )
        self._directory = directory
        self._cluster = Cluster(initialize_head=True, head_node_args=self._node("0"))
        self.nodes = [self._cluster.add_node(**self._node(str(i))) for i in range(1, count)]
        ray.init(address=self._cluster.address, log_to_driver=False)
        start_cluster(
            telemetry=(), state_dir=directory / "state", period_s=1.0, agents=True, apply=True
        )
        self.hub, self.store = connect(HUB), connect(STORE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        import ray

        from actors.cluster import stop_cluster

        try:
            stop_cluster()
            ray.shutdown()
            self._cluster.shutdown()
        finally:
            # Else the driver's double is what every later child process imports.
            os.environ.pop("PYTHONPATH")
            if self._path_before is not None:
                os.environ["PYTHONPATH"] = self._path_before

    def _node(self, name: str) -> dict[str, Any]:
        path = self._directory / f"gpus-{name}.json"
        path.write_text(json.dumps([{}, {"utilization_pct": 20}]))
        return {
            "num_cpus": 2,
            "env_vars": {"FAKE_DRIVER": str(path), "PYTHONPATH": os.environ["PYTHONPATH"]},
        }

    def limits_w(self, name: str) -> list[float]:
        """The limits that stand on a node's boards, watts."""
        gpus = json.loads((self._directory / f"gpus-{name}.json").read_text())
        return [gpu.get("limit_mw", FULL_MW) / 1e3 for gpu in gpus]

    def add(self, name: str) -> Any:
        """One more node."""
        self.nodes.append(self._cluster.add_node(**self._node(name)))
        return self.nodes[-1]

    def kill(self, node: Any) -> None:
        """``kill -9`` everything on a node."""
        self._cluster.remove_node(node, allow_graceful=False)

    def joint(self) -> dict[str, Any] | None:
        """The newest joint plan."""
        plan: dict[str, Any] | None = self.store.latest("joint")["plan"]
        return plan

    def planned(self) -> int:
        """GPUs that the newest joint plan, if it is safe, takes for alive."""
        plan = self.joint()
        return 0 if plan is None or plan["stale"] else sum(rate > 0 for rate in plan["rate"])

    @staticmethod
    def until(condition: Callable[[], Any], timeout_s: float = 180.0) -> Any:
        """The condition's first true value."""
        ends = time.monotonic() + timeout_s
        while not (found := condition()):
            if time.monotonic() > ends:
                raise AssertionError(f"not within {timeout_s:g} s")
            time.sleep(0.02)
        return found
