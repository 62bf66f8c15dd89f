"""Actors that carry weights from a trainer to its users: one source, many replicas.

    source = ray.remote(WeightSource).options(num_cpus=0).remote()
    replicas = {"a": ray.remote(WeightReplica).options(num_cpus=0, max_restarts=-1).remote()}
    ray.get(source.publish.remote(state_dict, replicas))

A replica that died and came back, missed an update or got a damaged one is sent everything within
the same call; one that does not answer is sent everything when it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qcluster.codec.weight_sync import Acknowledgement, WeightReceiver, WeightSender, WeightUpdate

__all__ = ["WeightReplica", "WeightSource"]

MAX_BYTES = 1 << 40


class WeightReplica:
    """Holds the weights that were applied last."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        from qcluster.q_decompressor import decompress

        self._receiver = WeightReceiver(decompress, max_bytes)

    def apply(self, update: WeightUpdate) -> Acknowledgement:
        """Apply an update, or say why not."""
        return self._receiver.apply(update)

    def held(self) -> tuple[int, str | None]:
        """Version and digest of the weights."""
        return self._receiver.version, self._receiver.digest

    def weights(self) -> dict[str, Any]:
        """The weights as NumPy arrays by name."""
        return self._receiver.weights


class WeightSource:
    """Publishes weights; ``config`` is that of the compressor."""

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        from functools import partial

        from qcluster.q_compressor import compress_state_dict

        self._sender = WeightSender(partial(compress_state_dict, config=config))

    def publish(
        self, weights: Mapping[str, Any], replicas: Mapping[str, Any], timeout_s: float = 60.0
    ) -> dict[str, dict[str, Any]]:
        """Bring every replica to these weights; for each what was sent and whether it arrived.

        Returns by name ``{way, bytes, applied, reason}``; ``way`` is ``delta``, ``full``, or
        ``resync`` where an update was not applied and everything was sent instead.
        """
        self._sender.publish(weights)
        first = {name: self._sender.update_for(name) for name in replicas}
        told = self._sent(first, replicas, timeout_s)
        missed = [name for name in replicas if not told[name]["applied"]]
        again = {name: self._sender.update_for(name) for name in missed}
        repeated = self._sent(again, replicas, timeout_s)
        for name, row in repeated.items():
            row["bytes"] += told[name]["bytes"]
            told[name] = {**row, "way": "resync"}
        return told

    def _sent(
        self, updates: Mapping[str, WeightUpdate], replicas: Mapping[str, Any], timeout_s: float
    ) -> dict[str, dict[str, Any]]:
        import ray

        calls = {name: replicas[name].apply.remote(update) for name, update in updates.items()}
        told: dict[str, dict[str, Any]] = {}
        for name, call in calls.items():
            answer: Acknowledgement | None = None
            reason = ""
            try:
                answer = ray.get(call, timeout=timeout_s)
                reason = answer.reason
            except ray.exceptions.RayError as error:
                reason = str(error).splitlines()[0]
            arrived = self._sender.heard(name, answer)
            way = "full" if updates[name].parent is None else "delta"
            told[name] = {"way": way, "bytes": len(updates[name].blob), "applied": arrived,
                          "reason": reason}  # fmt: skip
        return told
