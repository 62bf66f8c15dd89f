"""Time and memory of a run, and the two pieces of process state that a run borrows.

A run seeds the global random generators and listens to SIGTERM; both are given back at its end.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Meters", "draws_from", "stop_on_sigterm", "storage_bytes"]


class Meters:
    """Seconds of steps and of reading data, samples, gradient norms."""

    def __init__(self) -> None:
        self.step_s: list[float] = []
        self.read_s = 0.0
        self.samples = 0
        self.rate = 0.0
        self._norm: Tensor | None = None
        self._mark = (0.0, 0)
        self._began = 0.0

    def start(self) -> None:
        """The clock starts."""
        self._began = time.perf_counter()
        self._mark = (self._began, 0)

    def step(self, seconds: float, read: float, samples: int, rate: float, norm: Tensor) -> None:
        """One step was made."""
        self.step_s.append(seconds)
        self.read_s += read
        self.samples += samples
        self.rate, self._norm = rate, norm

    def recent_step_s(self) -> float:
        """Median seconds of the last steps; 0 before the first."""
        return statistics.median(self.step_s[-9:]) if self.step_s else 0.0

    def row(self, losses: Sequence[float]) -> dict[str, float]:
        """A line of the log for the steps since the last one."""
        now, (then, seen) = time.perf_counter(), self._mark
        self._mark = (now, self.samples)
        norm = self._norm
        whole = getattr(norm, "full_tensor", None)
        norm = norm if whole is None else whole()
        return {
            "loss": statistics.fmean(losses) if losses else float("nan"),
            "learning_rate": self.rate,
            "grad_norm": float("nan") if norm is None else norm.item(),
            "samples_per_s": (self.samples - seen) / max(1e-9, now - then),
        }

    def summary(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
    ) -> dict[str, Any]:
        """Fields of ``TrainReport`` on time and memory."""
        wall = time.perf_counter() - self._began
        times = sorted(self.step_s)
        held = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor)]
        cuda = device.type == "cuda"
        return {
            "wall_s": wall,
            "step_s_median": statistics.median(times) if times else 0.0,
            "step_s_p95": times[int(0.95 * (len(times) - 1))] if times else 0.0,
            "data_share": self.read_s / sum(times) if times else 0.0,
            "samples_per_s": self.samples / wall if wall > 0 else 0.0,
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "peak_device_bytes": torch.cuda.max_memory_allocated(device) if cuda else 0,
            "parameters": sum(p.numel() for p in model.parameters()),
            "parameter_bytes": storage_bytes(model.parameters()),
            "optimizer_bytes": storage_bytes(held),
        }


def storage_bytes(tensors: Any) -> int:
    """Bytes of the tensors' storages, each counted once."""
    seen: dict[int, int] = {}
    for tensor in tensors:
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        storage = local.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


@contextlib.contextmanager
def draws_from(seed: int) -> Iterator[None]:
    """Seed torch's global generators; on leaving they are as they were."""
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def stop_on_sigterm(stop: Callable[[str], None]) -> Iterator[None]:
    """While inside, SIGTERM asks for the end instead of killing; main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: stop("terminated by SIGTERM"))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
