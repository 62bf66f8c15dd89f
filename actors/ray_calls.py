"""The calls to Ray that a hand-over makes; every failure of Ray's becomes one of our errors."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import ray

from qcluster.errors import NotReady, Refused

__all__ = ["RayCalls"]

_SCALE_S = 30.0


class RayCalls:
    """The Ray that this process is connected to. Raises NotReady without one."""

    def __init__(self) -> None:
        if not ray.is_initialized():
            raise NotReady("this process is not connected to Ray")

    def nodes(self) -> list[dict[str, Any]]:
        """``ray.nodes()``."""
        with _ours():
            return list(ray.nodes())

    def groups(self) -> list[str]:
        """Names of the placement groups that are there or wait."""
        with _ours():
            table = ray.util.placement_group_table()
        return [row["name"] for row in table.values() if row["state"] != "REMOVED"]

    def placement_group(self, **arguments: Any) -> None:
        """``ray.util.placement_group``. It is made even where it has to wait for room."""
        with _ours():
            ray.util.placement_group(**arguments)

    def request_resources(self, **arguments: Any) -> None:
        """``ray.autoscaler.sdk.request_resources``; replaces the request before."""
        from ray.autoscaler.sdk import request_resources

        with _ours():
            request_resources(**arguments)

    def drain_node(self, *, node_id: str, reason: str, reason_message: str) -> None:
        """What ``ray drain-node`` does. Raises Refused with Ray's reason."""
        # Compiled, and its types are not complete.
        compiled: Any = importlib.import_module("ray._raylet")
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason

        with _ours():
            client = compiled.GcsClient(address=ray.get_runtime_context().gcs_address)
            accepted, why = client.drain_node(
                node_id, DrainNodeReason.Value(reason), reason_message, 0
            )
        if not accepted:
            raise Refused(f"Ray does not drain it: {why}")

    def scale(self, *, app: str, deployment: str, num_replicas: int) -> None:
        """Serve's call for outside scalers; the application must allow them.

        Raises Refused where ``external_scaler_enabled`` is not set; NotReady without Serve.
        """
        from ray import serve
        from ray.serve._private.common import DeploymentID
        from ray.serve.context import _get_global_client

        with _ours():
            client = _get_global_client(raise_if_no_controller_running=False)
            if client is None:
                raise NotReady("Serve does not run")
            subject = DeploymentID(name=deployment, app_name=app)
            if app not in serve.status().applications:
                raise Refused(f"Serve has no application '{app}'")
            # Ray has no public way but the dashboard, which we do not start.
            controller = client._controller  # noqa: SLF001
            call = controller.update_deployment_replicas.remote(subject, num_replicas)
            ray.get(call, timeout=_SCALE_S)


@contextlib.contextmanager
def _ours() -> Iterator[None]:
    try:
        yield
    except (ray.exceptions.RayError, ValueError, RuntimeError) as error:
        if isinstance(error, (NotReady, Refused)):
            raise
        told = str(getattr(error, "cause", None) or error).strip()
        raise Refused(told.splitlines()[-1] if told else type(error).__name__) from None
