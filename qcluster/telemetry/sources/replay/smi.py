"""Logs of ``nvidia-smi --query-gpu=timestamp,index,power.draw,... --format=csv -l 1``.

Every cell carries its unit (``512.34 W``) unless ``nounits`` was asked for; what a board does not
have reads ``[N/A]``. The log has local time without a zone; it is read as UTC, which only moves the
whole log.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from qcluster.errors import FormatError

__all__ = ["is_smi_log", "smi_columns"]

# Queries, without their unit, and the column that the table reader knows.
_QUERIES = {
    "index": "gpu",
    "power.draw": "power_w",
    "power.draw.instant": "power_w",
    "power.draw.average": "power_w",
    "power.limit": "power_limit_w",
    "enforced.power.limit": "power_limit_w",
    "clocks.sm": "sm_clock_mhz",
    "clocks.current.sm": "sm_clock_mhz",
    "clocks.mem": "mem_clock_mhz",
    "clocks.current.memory": "mem_clock_mhz",
    "temperature.gpu": "temperature_c",
    "utilization.gpu": "gpu_util_pct",
    "memory.used": "memory_used_mib",
}
_UNITS = {"W", "MHz", "%", "MiB"}
_BLANK = {"[N/A]", "N/A", "[Not Supported]", "[Unknown Error]", "[GPU is lost]", ""}


def is_smi_log(head: list[str]) -> bool:
    """Whether a CSV file's first line is that of such a log."""
    return "timestamp" in head and any(name.partition(" [")[0] in _QUERIES for name in head)


def smi_columns(cells: Mapping[str, tuple[str, ...]], path: Path) -> dict[str, tuple[str, ...]]:
    """The log's columns under the names and in the units that the table reader knows.

    Raises FormatError naming row and column of a time that cannot be read.
    """
    out: dict[str, tuple[str, ...]] = {"ts_s": _times(cells["timestamp"], path)}
    for name, texts in cells.items():
        ours = _QUERIES.get(name.partition(" [")[0])
        if ours is not None and ours not in out:
            out[ours] = tuple(_bare(text.strip()) for text in texts)
    if "gpu" not in out:
        out["gpu"] = ("0",) * len(out["ts_s"])
    return out


def _bare(text: str) -> str:
    if text in _BLANK:
        return ""
    number, _, unit = text.partition(" ")
    return number if unit in _UNITS else text


def _times(texts: tuple[str, ...], path: Path) -> tuple[str, ...]:
    out = []
    for row, text in enumerate(texts, start=2):
        try:
            stamp = datetime.strptime(text.strip(), "%Y/%m/%d %H:%M:%S.%f").replace(tzinfo=UTC)
        except ValueError:
            message = f"wants YYYY/MM/DD HH:MM:SS.mmm, got '{text.strip()[:40]}'"
            raise FormatError(message, file=path, row=row, field="timestamp") from None
        out.append(repr(stamp.timestamp()))
    return tuple(out)
