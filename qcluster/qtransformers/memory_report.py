"""The profiler's report: JSON through ``to_dict``, and a page with plots that stands alone."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qcluster.qtransformers.leaks import LeakVerdict
from qcluster.record import Record

__all__ = ["BlockMemory", "MemoryReport"]

WIDTH, HEIGHT, MARGIN = 640, 160, 44


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockMemory(Record):
    """One name's samples. Bytes; growth is end minus start of the block, summed over its calls."""

    name: str
    calls: int
    seconds: float
    peak_bytes: int
    growth_bytes: int
    largest_growth_bytes: int
    device_growth_bytes: int
    samples_every: int
    """Calls between kept samples; the leak's slope is a kept sample."""
    times_s: NDArray[np.float64]
    resident: NDArray[np.float64]
    leak: LeakVerdict


@dataclass(frozen=True, kw_only=True, eq=False)
class MemoryReport(Record):
    """What an ``AdvancedMemoryProfiler`` saw. None: not measured."""

    resident_bytes: int
    peak_bytes: int
    growth_bytes: int
    """Resident memory now, less that at the profiler's start."""
    blocks: tuple[BlockMemory, ...]
    live_tensor_bytes: int | None
    """Storages of live CPU tensors, each once."""
    live_tensor_peak_bytes: int | None
    device_allocated_bytes: int | None
    device_reserved_bytes: int | None
    device_peak_bytes: int | None
    python_bytes: int | None
    python_peak_bytes: int | None
    efficiency: dict[str, float]
    reference_bytes: int | None
    ratio_to_reference: float | None
    """``reference_bytes`` over the peak growth of live tensors, or where they are not tracked of
    resident memory: a compression ratio."""
    elapsed_s: float
    overhead_s: float
    overhead_share: float
    """Share of elapsed time that the profiler took; making this report is not in it."""
    overhead_bytes: int

    @property
    def leaks(self) -> tuple[str, ...]:
        """Names of blocks whose floor of memory rises to the end."""
        return tuple(block.name for block in self.blocks if block.leak.verdict == "leak")

    def to_html(self, path: str | Path | None = None) -> str:
        """The report as one page of HTML, written to ``path`` if given."""
        rows = "".join(_row(block) for block in self.blocks)
        plots = "".join(_plot(block) for block in self.blocks)
        head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
        page = (
            "<!doctype html><html lang='en'><meta charset='utf-8'><title>Memory</title>"
            f"<style>{_STYLE}</style><h1>Memory</h1><p>{html.escape(self._summary())}</p>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{plots}</html>\n"
        )
        if path is not None:
            Path(path).write_text(page, encoding="utf-8")
        return page

    def _summary(self) -> str:
        live = "not measured" if self.live_tensor_bytes is None else _mb(self.live_tensor_bytes)
        return (
            f"Resident {_mb(self.resident_bytes)}, peak {_mb(self.peak_bytes)}, growth "
            f"{_mb(self.growth_bytes)}; live tensors {live}"
            f"; the profiler took {self.overhead_share:.2%} of {self.elapsed_s:.3g} s."
        )


_COLUMNS = ("block", "calls", "seconds", "peak", "growth", "leak", "why", "slope a sample")
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color:#1a1a1a;background:#fff}table{border-collapse:collapse}td,th{padding:.25rem .6rem;"
    "border-bottom:1px solid #ccc;text-align:left}td:nth-child(n+2):nth-child(-n+5){text-align:"
    "right}svg{display:block;margin:1rem 0}@media(prefers-color-scheme:dark){body{color:#eee;"
    "background:#16181d}}"
)


def _row(block: BlockMemory) -> str:
    leak = block.leak
    slope = "-" if leak.slope is None else f"{leak.slope:.4g} bytes"
    if leak.slope_low is not None and leak.slope_high is not None:
        slope += f" ({leak.slope_low:.4g} to {leak.slope_high:.4g})"
    cells = (
        block.name, block.calls, f"{block.seconds:.4g}", _mb(block.peak_bytes),
        _mb(block.growth_bytes), leak.verdict, leak.reason, slope,
    )  # fmt: skip
    return "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>"


def _plot(block: BlockMemory) -> str:
    """Resident memory against time as a line."""
    if len(block.resident) < 2:
        return ""
    times, values = block.times_s, block.resident / 2**20
    low, high = float(values.min()), float(values.max())
    span, room = max(times[-1] - times[0], 1e-9), max(high - low, 1e-3)
    xs = MARGIN + (times - times[0]) / span * (WIDTH - 2 * MARGIN)
    ys = HEIGHT - 24 - (values - low) / room * (HEIGHT - 48)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    name = html.escape(block.name)
    return (
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' role='img' "
        f"aria-label='resident memory of {name}'><text x='0' y='14' fill='currentColor'>{name}, "
        f"MiB</text><text x='0' y='{HEIGHT - 20}' fill='currentColor' font-size='11'>{low:.1f}"
        f"</text><text x='0' y='32' fill='currentColor' font-size='11'>{high:.1f}</text>"
        f"<text x='{WIDTH - MARGIN}' y='{HEIGHT - 4}' fill='currentColor' font-size='11'>"
        f"{span:.3g} s</text><polyline fill='none' stroke='#3366cc' stroke-width='1.5' "
        f"points='{points}'/></svg>"
    )


def _mb(value: float) -> str:
    return f"{value / 2**20:.1f} MiB"
