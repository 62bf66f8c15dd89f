"""The telemetry schema: which metrics there are, in which units, and how values are marked.

Every source maps what it reads to these names and units at its edge; inside qcluster there are no
milliwatts, no percent and no vendor field names. Values travel in columnar blocks: one float64
array of entities x metrics with NaN for missing, and one uint8 array of quality flags beside it.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import FormatError
from qcluster.record import Record
from qcluster.telemetry.jobs import Job
from qcluster.telemetry.topology import Topology

__all__ = ["METRICS", "Batch", "Block", "Entity", "Event", "Metric", "Quality"]

Entity = Literal["gpu", "node", "link"]


class Quality(enum.IntFlag):
    """Why a value is not to be trusted as it stands; 0 is good."""

    OK = 0
    MISSING = 1
    """Not reported; the value is NaN."""
    SENTINEL = 2
    """The exporter's blank marker (2^46 and up, 0x7ffffff0); the value is NaN."""
    RANGE = 4
    """Outside what the metric can physically be; the value is NaN."""
    STALE = 8
    """Older than three of the source's periods."""
    RESET = 16
    """A counter that went backwards: driver reload or reboot; its rate is unknown."""
    SKEW = 32
    """The sender's clock disagrees with ours by more than a period."""
    DUPLICATE = 64
    """Same entity, metric and time came twice; the first was kept."""
    SHARED = 128
    """A figure of the whole device repeated for each of its slices (MIG)."""


@dataclass(frozen=True)
class Metric:
    """One column of the schema.

    ``low`` and ``high`` bound what is physically possible, in ``unit``; ``dcgm`` is the field that
    DCGM's exporter calls it by, ``scale`` what its value is multiplied with.
    """

    name: str
    unit: str
    entity: Entity
    kind: Literal["gauge", "counter"]
    low: float
    high: float
    help: str
    dcgm: str | None = None
    scale: float = 1.0


def _metrics() -> dict[str, Metric]:
    inf = math.inf
    rows: list[tuple[Any, ...]] = [
        ("up", "1", "gpu", "gauge", 0, 1, "1 while the device answers", None, 1.0),
        ("power_w", "W", "gpu", "gauge", 0, 3000, "board power", "DCGM_FI_DEV_POWER_USAGE", 1.0),
        ("power_limit_w", "W", "gpu", "gauge", 0, 3000, "enforced power limit",
         "DCGM_FI_DEV_ENFORCED_POWER_LIMIT", 1.0),
        ("power_held_s", "s", "gpu", "counter", 0, inf, "time the power limit held clocks down",
         "DCGM_FI_DEV_POWER_VIOLATION", 1e-9),
        ("work_rate", "1", "gpu", "gauge", 0, inf, "work a second, in whatever the job counts",
         None, 1.0),
        ("energy_j", "J", "gpu", "counter", 0, inf, "energy since driver load",
         "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 1e-3),
        ("sm_clock_mhz", "MHz", "gpu", "gauge", 0, 5000, "SM clock", "DCGM_FI_DEV_SM_CLOCK", 1.0),
        ("mem_clock_mhz", "MHz", "gpu", "gauge", 0, 10000, "memory clock",
         "DCGM_FI_DEV_MEM_CLOCK", 1.0),
        ("temperature_c", "C", "gpu", "gauge", -40, 150, "die temperature",
         "DCGM_FI_DEV_GPU_TEMP", 1.0),
        ("utilization", "1", "gpu", "gauge", 0, 1, "share of time a kernel ran",
         "DCGM_FI_DEV_GPU_UTIL", 1e-2),
        ("sm_active", "1", "gpu", "gauge", 0, 1, "share of cycles an SM had a warp",
         "DCGM_FI_PROF_SM_ACTIVE", 1.0),
        ("tensor_active", "1", "gpu", "gauge", 0, 1, "share of cycles the tensor pipe was busy",
         "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", 1.0),
        ("dram_active", "1", "gpu", "gauge", 0, 1, "share of cycles memory moved data",
         "DCGM_FI_PROF_DRAM_ACTIVE", 1.0),
        ("memory_used_bytes", "B", "gpu", "gauge", 0, inf, "frame buffer in use",
         "DCGM_FI_DEV_FB_USED", 2.0**20),
        ("nvlink_tx_bytes", "B", "gpu", "counter", 0, inf, "NVLink bytes sent", None, 1.0),
        ("nvlink_rx_bytes", "B", "gpu", "counter", 0, inf, "NVLink bytes received", None, 1.0),
        # DCGM's fields are rates in bytes a second, whatever their names and help texts say.
        ("nvlink_tx_gb_s", "GB/s", "gpu", "gauge", 0, 10_000, "NVLink rate sent",
         "DCGM_FI_PROF_NVLINK_TX_BYTES", 1e-9),
        ("nvlink_rx_gb_s", "GB/s", "gpu", "gauge", 0, 10_000, "NVLink rate received",
         "DCGM_FI_PROF_NVLINK_RX_BYTES", 1e-9),
        ("xid_error", "1", "gpu", "gauge", 0, 1000, "last XID error, 0 is none",
         "DCGM_FI_DEV_XID_ERRORS", 1.0),
        ("node_power_w", "W", "node", "gauge", 0, 200_000, "power of the node, AC", None, 1.0),
        ("node_cpu", "1", "node", "gauge", 0, 1, "share of CPU time in use", None, 1.0),
        ("node_memory_bytes", "B", "node", "gauge", 0, inf, "main memory in use", None, 1.0),
        ("link_up", "1", "link", "gauge", 0, 1, "share of the link's lanes that are up", None, 1.0),
        ("link_tx_bytes", "B", "link", "counter", 0, inf, "bytes sent source to target", None, 1.0),
        ("link_errors", "1", "link", "counter", 0, inf, "replay and CRC errors", None, 1.0),
    ]  # fmt: skip
    return {row[0]: Metric(*row) for row in rows}


METRICS: dict[str, Metric] = _metrics()
"""All metrics by name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Event(Record):
    """Something that happened, as opposed to a value.

    ``kind`` is one of link_down, link_up, gpu_lost, gpu_back, hot_expert, power_step, gap, alarm,
    clear; ``subject`` the entity's id.
    """

    ts_s: float
    kind: str
    subject: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Block(Record):
    """Values of one kind of entity at one time.

    ``values`` is (len(ids), len(metrics)), NaN where missing; ``quality`` the same shape, a
    ``Quality`` for each value. GPU ids are ``node/index``, link ids ``source->target``.
    """

    entity: Entity
    ids: tuple[str, ...]
    metrics: tuple[str, ...]
    values: NDArray[np.float64]
    quality: NDArray[np.uint8]

    @classmethod
    def of(
        cls, entity: Entity, ids: tuple[str, ...], columns: dict[str, NDArray[np.float64]]
    ) -> Block:
        """A block from columns, each (len(ids),): ranges checked, blanks and NaN flagged.

        Raises FormatError for an unknown metric, one of another entity, or a wrong length.
        """
        values = np.empty((len(ids), len(columns)))
        quality = np.zeros(values.shape, dtype=np.uint8)
        for position, (name, column) in enumerate(columns.items()):
            metric = METRICS.get(name)
            if metric is None or metric.entity != entity:
                raise FormatError(f"no {entity} metric of this name", field=name)
            if np.shape(column) != (len(ids),):
                raise FormatError(f"wants {len(ids)} values, got {np.shape(column)}", field=name)
            values[:, position], quality[:, position] = screen(metric, np.asarray(column, float))
        return cls(entity=entity, ids=ids, metrics=tuple(columns), values=values, quality=quality)


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch(Record):
    """What a source delivers at one time.

    ``expert_load`` is (layers, experts), tokens routed to each expert since the batch before;
    ``topology`` and ``jobs`` are given when they are known or have changed; ``period_s`` is how
    often batches come.
    """

    source: str
    ts_s: float
    simulated: bool = False
    period_s: float = 1.0
    blocks: tuple[Block, ...] = ()
    expert_load: NDArray[np.float64] | None = None
    topology: Topology | None = None
    jobs: tuple[Job, ...] | None = None
    events: tuple[Event, ...] = field(default_factory=tuple)


def screen(
    metric: Metric, column: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Values of one metric with everything unusable turned into NaN, and why."""
    quality = np.zeros(column.shape, dtype=np.uint8)
    missing = np.isnan(column)
    with np.errstate(invalid="ignore"):
        blank = is_blank(column, np.array(metric.kind == "counter"))
        outside = ~missing & ~blank & ((column < metric.low) | (column > metric.high))
    quality[missing] |= np.uint8(Quality.MISSING)
    quality[blank] |= np.uint8(Quality.SENTINEL)
    quality[outside] |= np.uint8(Quality.RANGE)
    return np.where(missing | blank | outside, np.nan, column), quality


def is_blank(column: NDArray[np.float64], counter: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which values are DCGM's markers for "no value", in the exporter's own unit.

    They are 2^46 for doubles, 0x7ffffff0.. for 32-bit and 2^63.. for 64-bit integers. A counter
    may legitimately pass 2^46 bytes, so there only the 64-bit marker counts.
    """
    with np.errstate(invalid="ignore"):
        floor = np.where(counter, 9.22e18, 2.0**46)
        short = ~counter & (column >= 0x7FFFFFF0) & (column <= 0x7FFFFFFF)
        return np.asarray((column >= floor) | short)
