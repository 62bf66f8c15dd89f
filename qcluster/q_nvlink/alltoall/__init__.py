"""All-to-all schedules: exact on one tier, pipelined over two, verified."""

from __future__ import annotations

from qcluster.q_nvlink.alltoall.schedule import Schedule, schedule_all_to_all

__all__ = ["Schedule", "schedule_all_to_all"]
