"""What a planner sees: one consistent, immutable picture of the cluster.

A snapshot holds the latest value of every metric as arrays in the order of its topology, rates
instead of counters, a window of power history and of expert loads, and a hash of all that, which
every plan cites.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.record import Record, encode
from qcluster.telemetry.jobs import Job
from qcluster.telemetry.schema import Event
from qcluster.telemetry.topology import Topology

__all__ = ["Snapshot"]


def _feed(digest: hashlib._Hash, value: Any) -> None:
    if isinstance(value, np.ndarray):
        # One bit pattern for NaN, so that a copy that went through JSON hashes alike.
        clean = np.where(np.isnan(value), np.nan, value) if value.dtype.kind == "f" else value
        digest.update(f"{clean.dtype}{clean.shape}".encode())
        digest.update(np.ascontiguousarray(clean).tobytes())
    elif isinstance(value, dict):
        for key in sorted(value):
            digest.update(key.encode())
            _feed(digest, value[key])
    elif isinstance(value, Topology):
        digest.update(value.text.encode())
    else:
        text = json.dumps(encode(value), sort_keys=True, separators=(",", ":"))
        digest.update(text.encode())


def _none() -> NDArray[np.float64]:
    return np.empty((0, 0))


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot(Record):
    """The cluster at ``ts_s`` (Unix seconds of the newest sample).

    ``gpu``, ``node`` and ``link`` map metric names to one value an entity, in the order of
    ``topology.gpu_ids``, ``topology.nodes`` and ``topology.links``; NaN where unknown. Counters
    appear as rates under the name with ``_bytes`` replaced by ``_gb_s``
    (``power_held_s`` as the share ``power_held``). ``alive`` marks GPUs that
    answer. ``expert_load`` is (windows, layers, experts), newest window last; ``power_w`` is
    (times, nodes), newest last, with ``power_ts_s`` (times,).
    """

    seq: int
    ts_s: float
    topology: Topology
    simulated: bool = False
    sources: tuple[str, ...] = ()
    alive: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, dtype=bool))
    gpu: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    gpu_quality: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    node: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    link: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    expert_load: NDArray[np.float64] | None = None
    power_ts_s: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    power_w: NDArray[np.float64] = field(default_factory=_none)
    jobs: tuple[Job, ...] = ()
    events: tuple[Event, ...] = ()

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 over the content, 16 hex digits; equal content has equal hash everywhere."""
        digest = hashlib.sha256()
        for item in dataclasses.fields(self):
            digest.update(item.name.encode())
            _feed(digest, getattr(self, item.name))
        return digest.hexdigest()[:16]

    @property
    def alive_gpus(self) -> tuple[str, ...]:
        """Ids of the GPUs that answer; two snapshots with the same can share a safe plan."""
        ids = self.topology.gpu_ids
        return tuple(gpu for gpu, alive in zip(ids, self.alive, strict=True) if alive)

    def age_s(self, now: float | None = None) -> float:
        """Seconds since the newest sample, at least 0."""
        return max(0.0, (time.time() if now is None else now) - self.ts_s)
