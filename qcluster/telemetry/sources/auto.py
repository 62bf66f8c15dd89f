"""``auto``: NVML where a driver answers, the simulator (marked as such) where none does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from qcluster.errors import InputError
from qcluster.telemetry.schema import Batch

__all__ = ["Auto", "Detection", "detect"]


class Detection(NamedTuple):
    """The spec that ``auto`` stands for on this machine, and why."""

    spec: str
    reason: str


def detect() -> Detection:
    """Look for a driver. Never raises: whatever is wrong with it is the reason."""
    try:
        import pynvml
    except ImportError as error:
        return Detection("simulate", f"nvidia-ml-py cannot be imported: {error}")
    try:
        pynvml.nvmlInit()
    except Exception as error:  # each state of a broken driver has its own class
        return Detection("simulate", f"no NVIDIA driver answers: {error}")
    try:
        count = pynvml.nvmlDeviceGetCount()
    except Exception as error:
        return Detection("simulate", f"the NVIDIA driver lists no GPUs: {error}")
    finally:
        pynvml.nvmlShutdown()
    if not count:
        return Detection("simulate", "the NVIDIA driver finds no GPU")
    return Detection("nvml", f"the NVIDIA driver finds {count} GPU{'s' if count > 1 else ''}")


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
