"""What files say of the cluster: ``topology:FILE`` and ``jobs:FILE``, beside sources that measure.

A replayed power trace names nodes but not their GPUs, a router trace names neither; with the
cluster described in a file the planners can work on both.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from qcluster.errors import InputError
from qcluster.telemetry.jobs import Job
from qcluster.telemetry.schema import Batch
from qcluster.telemetry.topology import Topology

__all__ = ["Described", "jobs", "topology"]


class Described:
    """Tells a topology or jobs once, and stays open so that it is told again after a restart.

    Raises FormatError naming file and field when opened.
    """

    def __init__(self, kind: str, argument: str) -> None:
        if not argument:
            raise InputError(f"wants a file: {kind}:FILE", field="--telemetry")
        self.name = f"{kind}:{argument}"
        self._topology = Topology.read(argument) if kind == "topology" else None
        self._jobs = Job.read_all(argument) if kind == "jobs" else None

    async def batches(self) -> AsyncIterator[Batch]:
        """One batch, then silence. Its time is 0, so it never makes samples look old."""
        yield Batch(source=self.name, ts_s=0.0, topology=self._topology, jobs=self._jobs)
        while True:
            await asyncio.sleep(3600.0)


def topology(argument: str) -> Described:
    """The source behind ``topology:FILE``."""
    return Described("topology", argument)


def jobs(argument: str) -> Described:
    """The source behind ``jobs:FILE``."""
    return Described("jobs", argument)
