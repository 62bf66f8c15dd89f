"""Logs of ``nvidia-smi --query-gpu=timestamp,index,power.draw,... --format=csv -l 1``.

Every cell carries its unit (``512.34 W``) unless ``nounits`` was asked for; what a board does not
have reads ``[N/A]``. The log has local time without a zone; it is read as UTC, which only moves the
whole log. Where GPUs go by serial (UUID) or bus address, they are numbered as they appear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
_SERIALS = ("uuid", "gpu_uuid", "gpu_bus_id", "pci.bus_id", "serial", "gpu_serial")
_KEPT = ("node", "hostname", "host")


def is_smi_log(head: list[str]) -> bool:
    """Whether a CSV file's first line is that of such a log."""
    return "timestamp" in head and any(name.partition(" [")[0] in _QUERIES for name in head)


def smi_columns(
    cells: Mapping[str, Sequence[str]],
    path: Path,
    *,
    rows: Sequence[int],
    devices: dict[str, str] | None = None,
) -> dict[str, tuple[str, ...]]:
    """The log's columns under the names and in the units that the table reader knows.

    ``rows`` are the rows' numbers. ``devices`` numbers the serials that were seen
    before in this log, and takes the new ones.

    Raises FormatError naming row and column of a time that cannot be read, and where the rows of
    several GPUs cannot be told apart.
    """
    out: dict[str, tuple[str, ...]] = {"ts_s": _times(cells["timestamp"], rows, path)}
    for name, texts in cells.items():
        ours = _QUERIES.get(name.partition(" [")[0])
        if ours is not None:
            bare = tuple(_bare(text.strip()) for text in texts)
            # Boards that lack one kind of power reading often have another.
            held = out.get(ours, bare)
            out[ours] = tuple(a or b for a, b in zip(held, bare, strict=True))
        elif name in _KEPT:
            out[name] = tuple(texts)
    if "gpu" not in out:
        out["gpu"] = _numbered(cells, out, rows, path, {} if devices is None else devices)
    return out


def _numbered(
    cells: Mapping[str, Sequence[str]],
    out: Mapping[str, Sequence[str]],
    rows: Sequence[int],
    path: Path,
    devices: dict[str, str],
) -> tuple[str, ...]:
    serial = next((name for name in _SERIALS if name in cells), None)
    if serial is not None:
        names = [text.strip() for text in cells[serial]]
        return tuple(devices.setdefault(name, str(len(devices))) for name in names)
    hosts = next((out[name] for name in _KEPT if name in out), ("",) * len(rows))
    seen: set[tuple[str, str]] = set()
    for row, place in zip(rows, zip(hosts, out["ts_s"], strict=True), strict=True):
        if place in seen:
            message = "one time, several GPUs, and no column tells which: query index or uuid"
            raise FormatError(message, file=path, row=row)
        seen.add(place)
    return ("0",) * len(rows)


def _bare(text: str) -> str:
    if text in ("", "N/A") or (text[0] == "[" and text[-1] == "]"):
        return ""
    number, _, unit = text.partition(" ")
    return number if unit in _UNITS else text


def _times(texts: Sequence[str], rows: Sequence[int], path: Path) -> tuple[str, ...]:
    out = []
    for row, cell in zip(rows, texts, strict=True):
        text = cell.strip()
        # Older drivers, and logs that were cut by hand, have whole seconds.
        shape = "%Y/%m/%d %H:%M:%S.%f" if "." in text else "%Y/%m/%d %H:%M:%S"
        try:
            stamp = datetime.strptime(text, shape).replace(tzinfo=UTC)
        except ValueError:
            message = f"wants YYYY/MM/DD HH:MM:SS.mmm, got '{text[:40]}'"
            raise FormatError(message, file=path, row=row, field="timestamp") from None
        out.append(repr(stamp.timestamp()))
    return tuple(out)
