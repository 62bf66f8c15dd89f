"""``auto``: NVML where a driver answers, the simulator (marked as such) where none does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from qcluster.errors import InputError
from qcluster.telemetry.schema import Batch
from qcluster.telemetry.sources.nvml import driver_state

__all__ = ["Auto", "Detection", "detect"]


class Detection(NamedTuple):
    """The spec that ``auto`` stands for on this machine, and why."""

    spec: str
    reason: str


def detect() -> Detection:
    """Look for a driver. Never raises: whatever is wrong with it is the reason."""
    found = driver_state()
    return Detection("nvml" if found.state == "ready" else "simulate", found.detail)


class Auto:
    """Whatever ``detect`` found. ``reason`` says why; ``name`` is the spec it stands for."""

    def __init__(self, argument: str = "") -> None:
        from qcluster.telemetry.sources import open_source

        if argument:
            raise InputError("takes no argument", field="auto")
        found = detect()
        self.reason = found.reason
        self._source = open_source(found.spec)
        self.name = self._source.name

    def batches(self) -> AsyncIterator[Batch]:
        """The chosen source's batches."""
        return self._source.batches()
