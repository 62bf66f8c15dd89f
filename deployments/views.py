"""What the page, the streams and the metrics route show of snapshots and plans."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from qcluster.record import encode
from qcluster.telemetry import Snapshot

__all__ = ["metrics_text", "power_history", "snapshot_view"]


def snapshot_view(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot's latest values, without its history, as JSON types."""
    topology = snapshot.topology
    gpus, links = len(topology.gpu_ids), len(topology.links)
    up = snapshot.link.get("link_up", np.full(links, np.nan))
    load = _link_load(snapshot, links)
    view = {
        "seq": snapshot.seq,
        "ts_s": snapshot.ts_s,
        "simulated": snapshot.simulated,
        "sources": snapshot.sources,
        "hash": snapshot.hash,
        "gpus": topology.gpu_ids,
        "alive": snapshot.alive,
        "node_ids": [node.id for node in topology.nodes],
        "node_power_w": _node_power(snapshot),
        "links": [
            {
                "id": link.id,
                "source": link.source,
                "target": link.target,
                "bandwidth_gb_s": link.bandwidth_gb_s,
                "up": None if math.isnan(up[i]) else bool(up[i] > 0),
                "load": load[i],
            }
            for i, link in enumerate(topology.links)
        ],
        "events": snapshot.events[-20:],
    }
    for name in ("power_w", "utilization", "temperature_c", "sm_clock_mhz"):
        view[name] = snapshot.gpu.get(name, np.full(gpus, np.nan))
    if snapshot.expert_load is not None:
        view["expert_load_shape"] = snapshot.expert_load.shape
    result: dict[str, Any] = encode(view)
    return result


def power_history(snapshot: Snapshot) -> list[list[float]]:
    """``[[ts_s, watts of all nodes]]``, oldest first, without times at which no node reported."""
    return [
        [float(ts), float(np.nansum(power))]
        for ts, power in zip(snapshot.power_ts_s, snapshot.power_w, strict=True)
        if np.isfinite(power).any()
    ]


def _link_load(snapshot: Snapshot, links: int) -> NDArray[np.float64]:
    sent = snapshot.link.get("link_tx_gb_s", np.full(links, np.nan))
    capacity = np.array([link.bandwidth_gb_s for link in snapshot.topology.links], dtype=float)
    return np.asarray(sent / capacity if links else sent)


def _node_power(snapshot: Snapshot) -> NDArray[np.float64]:
    if len(snapshot.power_w):
        return np.asarray(snapshot.power_w[-1])
    return np.full(len(snapshot.topology.nodes), np.nan)


def metrics_text(
    plans: Mapping[str, Mapping[str, Any]], telemetry: Mapping[str, Any] | None
) -> bytes:
    """Prometheus text: a few series a planner, none a GPU or an expert."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str) -> Gauge:
        return Gauge(f"qcluster_{name}", text, ["planner"], registry=registry)

    figures = {
        "age_s": gauge("plan_age_seconds", "Age of the plan that readers get"),
        "objective": gauge("plan_objective", "Objective, smaller is better"),
        "gap": gauge("plan_gap", "Proven relative gap to the bound"),
        "wall_s": gauge("plan_solve_seconds", "Time that solving took"),
        "balancedness_after": gauge("plan_balancedness", "Mean over max GPU load"),
        "balancedness_before": gauge(
            "plan_balancedness_before", "The same of the plan before, on the load planned for"
        ),
        "moved_slots": gauge("plan_moved_slots", "Expert slots changed by the plan"),
    }
    stale = gauge("plan_stale", "1 while the plan is not the newest that there should be")
    for planner, view in plans.items():
        plan = view["plan"] or {}
        stale.labels(planner).set(float(plan.get("stale", True)))
        for field, series in figures.items():
            if isinstance(value := plan.get(field), (int, float)):
                series.labels(planner).set(value)
    if telemetry is not None:
        silent = Gauge(
            "qcluster_telemetry_silent_seconds", "Since telemetry arrived", registry=registry
        )
        silent.set(telemetry["silent_s"])
        samples = Gauge(
            "qcluster_telemetry_samples", "Values taken in since start", registry=registry
        )
        samples.set(telemetry["samples"])
    text: bytes = generate_latest(registry)
    return text
