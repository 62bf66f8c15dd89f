"""Telemetry: the schema, the cluster's topology, sources, and the snapshots that planners read."""

from __future__ import annotations

from qcluster.telemetry.jobs import Job
from qcluster.telemetry.ring import Ring
from qcluster.telemetry.schema import METRICS, Batch, Block, Event, Metric, Quality
from qcluster.telemetry.snapshot import Snapshot
from qcluster.telemetry.sources import SOURCES, Source, open_source
from qcluster.telemetry.topology import Accelerator, Link, Node, Topology

__all__ = [
    "METRICS",
    "SOURCES",
    "Accelerator",
    "Batch",
    "Block",
    "Event",
    "Job",
    "Link",
    "Metric",
    "Node",
    "Quality",
    "Ring",
    "Snapshot",
    "Source",
    "Topology",
    "open_source",
]
