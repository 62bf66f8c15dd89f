"""``AdvancedMemoryProfiler``: what memory a block of code takes, over time, and whether it leaks.

Sources: resident memory of the process (always), CUDA's allocator (where CUDA is in use), storages
of live torch tensors on the CPU (found through the garbage collector, as often as the profiler's
budget of time allows), Python objects by tracemalloc (on request: it makes Python several times
slower, and does not see tensors).

What it cannot know: which part of resident memory an allocator keeps for later. That is what the
ratio of live tensors to resident growth hints at.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil

from qcluster.errors import InputError
from qcluster.qtransformers.leaks import find_leak
from qcluster.qtransformers.memory_report import BlockMemory, MemoryReport

__all__ = ["AdvancedMemoryProfiler"]

SCAN_SHARE = 0.01
"""Share of elapsed time that looking for live tensors may take."""


class AdvancedMemoryProfiler:
    """Records memory around blocks of code.

    Parameters
    ----------
    trace_python: also trace Python allocations (tracemalloc, one frame). Slow.
    track_tensors: look for live tensors at the ends of blocks, within a budget of 1 % of the time.
    reference_bytes: what the blocks would take in another form, e.g. uncompressed; the report
        gives its ratio to the peak growth of live tensors (untracked: of resident memory).
    keep: samples kept a block; older ones are thinned out evenly.

    ``profile_block`` nests, is safe in threads and lets exceptions pass. Raises InputError for
    sizes that are not positive.
    """

    def __init__(
        self,
        *,
        trace_python: bool = False,
        track_tensors: bool = True,
        reference_bytes: int | None = None,
        keep: int = 4096,
    ) -> None:
        if reference_bytes is not None and reference_bytes <= 0:
            raise InputError(f"wanted more than 0, came {reference_bytes}", field="reference_bytes")
        if keep < 16:
            raise InputError(f"wanted 16 or more, came {keep}", field="keep")
        self.trace_python, self.track_tensors = trace_python, track_tensors
        self.reference_bytes = reference_bytes
        self.keep = keep - keep % 2
        self._lock = threading.Lock()
        self._blocks: dict[str, _Series] = {}
        self._resident = _resident_reader()
        self._own_s, self._scan_s, self._began = 0.0, 0.0, time.perf_counter()
        self._scan_cost = 0.02  # of a small process; the first look tells
        self._first = self._resident()
        compares = track_tensors and reference_bytes is not None
        self._live_first = live_tensor_bytes() if compares else 0
        self._live, self._live_peak = self._live_first, self._live_first
        self._started_tracing = trace_python and not tracemalloc.is_tracing()
        if self._started_tracing:
            tracemalloc.start(1)

    @contextlib.contextmanager
    def profile_block(self, name: str) -> Iterator[None]:
        """Measure what happens inside under ``name``; the same name adds a sample each time."""
        start = time.perf_counter()
        before, device_before = self._resident(), _device_bytes()
        self._spend(start)
        inside = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - inside
            self._end(name, before, device_before, seconds)

    def sample(self, name: str = "process") -> None:
        """One sample outside any block, e.g. once a training step."""
        self._end(name, None, None, 0.0)

    def close(self) -> None:
        """Stop tracing Python allocations, if this profiler started it."""
        if self._started_tracing and tracemalloc.is_tracing():
            tracemalloc.stop()
            self._started_tracing = False

    def generate_report(self, *, smallest_slope: float = 4096.0) -> MemoryReport:
        """Peaks, trends, verdicts on leaks, efficiency, and what the profiler itself cost.

        ``smallest_slope``: growth in bytes a sample that counts as a leak (default: a page).
        """
        elapsed, own_s = time.perf_counter() - self._began, self._own_s
        if self.track_tensors:
            self._scan()
        with self._lock:
            blocks = tuple(s.summary(n, smallest_slope) for n, s in self._blocks.items())
            own_bytes = sum(s.own_bytes() for s in self._blocks.values())
        traced = tracemalloc.get_traced_memory() if tracemalloc.is_tracing() else (None, None)
        peak = max([self._first, *(block.peak_bytes for block in blocks)])
        device = _device_bytes()
        return MemoryReport(
            resident_bytes=self._resident(),
            peak_bytes=peak,
            growth_bytes=self._resident() - self._first,
            blocks=blocks,
            live_tensor_bytes=self._live if self.track_tensors else None,
            live_tensor_peak_bytes=self._live_peak if self.track_tensors else None,
            device_allocated_bytes=None if device is None else device[0],
            device_reserved_bytes=None if device is None else device[1],
            device_peak_bytes=None if device is None else device[2],
            python_bytes=traced[0],
            python_peak_bytes=traced[1],
            efficiency=_efficiency(self._live, device, peak),
            reference_bytes=self.reference_bytes,
            ratio_to_reference=self._ratio(peak),
            elapsed_s=elapsed,
            overhead_s=own_s,
            overhead_share=own_s / elapsed if elapsed > 0 else 0.0,
            overhead_bytes=own_bytes,
        )

    def _ratio(self, peak: int) -> float | None:
        if self.reference_bytes is None:
            return None
        tensors = self._live_peak - self._live_first
        return self.reference_bytes / max(1, tensors if self.track_tensors else peak - self._first)

    def _end(self, name: str, before: int | None, device: Any, seconds: float) -> None:
        start = time.perf_counter()
        after, device_after = self._resident(), _device_bytes()
        if self.track_tensors and self._scan_s + self._scan_cost <= SCAN_SHARE * (
            start - self._began
        ):
            self._scan()
        growth = 0 if before is None else after - before
        device_growth = 0 if device is None or device_after is None else device_after[0] - device[0]
        with self._lock:
            series = self._blocks.get(name)
            if series is None:
                series = self._blocks[name] = _Series(self.keep)
            series.add(start - self._began, after, max(after, before or 0), growth, device_growth,
                       seconds)  # fmt: skip
        self._spend(start)

    def _scan(self) -> None:
        start = time.perf_counter()
        self._live = live_tensor_bytes()
        self._live_peak = max(self._live_peak, self._live)
        self._scan_cost = time.perf_counter() - start
        self._scan_s += self._scan_cost

    def _spend(self, start: float) -> None:
        spent = time.perf_counter() - start
        with self._lock:
            self._own_s += spent


class _Series:
    """Samples of one block in bounded memory."""

    def __init__(self, keep: int) -> None:
        self.values = np.zeros((keep, 2))
        self.count, self.every, self.calls = 0, 1, 0
        self.peak, self.growth, self.largest, self.device_growth = 0, 0, 0, 0
        self.seconds = 0.0

    def add(
        self, at: float, after: int, peak: int, growth: int, device_growth: int, seconds: float
    ) -> None:
        """Keep every ``every``-th sample; when full, drop each second one."""
        if self.calls % self.every == 0:
            if self.count == len(self.values):
                self.values[: self.count // 2] = self.values[::2].copy()
                self.count //= 2
                self.every *= 2
            if self.calls % self.every == 0:
                self.values[self.count] = (at, after)
                self.count += 1
        self.calls += 1
        self.peak, self.growth = max(self.peak, peak), self.growth + growth
        self.largest = max(self.largest, growth)
        self.device_growth += device_growth
        self.seconds += seconds

    def own_bytes(self) -> int:
        """Memory of the samples."""
        return int(self.values.nbytes)

    def summary(self, name: str, smallest_slope: float) -> BlockMemory:
        """The block's part of the report."""
        kept = self.values[: self.count]
        leak = find_leak(kept[:, 1], smallest_slope=smallest_slope * self.every)
        return BlockMemory(
            name=name, calls=self.calls, seconds=self.seconds, peak_bytes=self.peak,
            growth_bytes=self.growth, largest_growth_bytes=self.largest,
            device_growth_bytes=self.device_growth, samples_every=self.every,
            times_s=kept[:, 0].copy(), resident=kept[:, 1].copy(), leak=leak,
        )  # fmt: skip


def live_tensor_bytes() -> int:
    """Bytes of the CPU storages of all tensors that the garbage collector knows, each once."""
    torch = sys.modules.get("torch")
    if torch is None:
        return 0
    import gc

    seen: dict[int, int] = {}
    for thing in gc.get_objects():
        kind = type(thing)
        if kind is not torch.Tensor and kind is not torch.nn.Parameter:
            continue
        tensors = (thing, thing.grad) if thing.is_leaf and thing.grad is not None else (thing,)
        for tensor in tensors:
            if tensor.device.type == "cpu" and tensor.layout is torch.strided:
                storage = tensor.untyped_storage()
                seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


def _resident_reader() -> Any:
    """A function that reads this process's resident bytes; one small read where /proc is."""
    page = os.sysconf("SC_PAGE_SIZE")
    try:
        handle = os.open("/proc/self/statm", os.O_RDONLY)
    except OSError:
        return lambda: psutil.Process().memory_info().rss
    owner = os.getpid()

    def read() -> int:
        if os.getpid() != owner:
            # After a fork the open file still speaks of the parent.
            return int(psutil.Process().memory_info().rss)
        return int(os.pread(handle, 128, 0).split(b" ", 2)[1]) * page

    import weakref

    weakref.finalize(read, os.close, handle)
    return read


def _device_bytes() -> tuple[int, int, int] | None:
    """Allocated, reserved and peak bytes on the GPU, where CUDA is in use."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return (
        torch.cuda.memory_allocated(),
        torch.cuda.memory_reserved(),
        torch.cuda.max_memory_allocated(),
    )


def _efficiency(live: int, device: tuple[int, int, int] | None, peak: int) -> dict[str, float]:
    found = {"live_tensors_to_resident": live / max(1, peak)}
    if device is not None:
        found["device_allocated_to_reserved"] = device[0] / max(1, device[1])
    return found
