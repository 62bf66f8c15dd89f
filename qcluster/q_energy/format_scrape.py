"""Power readings in the text of Prometheus exporters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import FormatError
from qcluster.q_energy.readings import Readings
from qcluster.q_energy.trace import PowerTrace
from qcluster.telemetry.schema import Quality, is_blank
from qcluster.telemetry.sources.exposition import Reader
from qcluster.telemetry.sources.prometheus import general
from qcluster.telemetry.sources.replay.logs import read_scrape

__all__ = ["read_scrape_text"]

_POWER = ("power_w", "node_power_w")
_LEFT_OUT = {
    Quality.SENTINEL: "an exporter's blank marker",
    Quality.RANGE: "no power that there is",
}
# A GPU at rest in milliwatts is above, a rack in watts below.
_MILLIWATTS = {"power_w": 20_000.0, "node_power_w": 1_000_000.0}


def read_scrape_text(text: str, file: object) -> PowerTrace:
    """The power in a saved scrape, at the times its samples carry, one reading each if none.

    Blanks are left out with a warning. Raises FormatError where there is no power, where it is in
    milliwatts, and where two devices answer to one place.
    """
    path = Path(str(file or "scrape"))
    wanted = _places(text, path, file)
    readings = Readings(file=file)
    marks: dict[str, int] = {}
    twice = 0
    for batch in read_scrape(text, path, "file"):
        for block in batch.blocks:
            name = next((m for m in _POWER if m in block.metrics), None)
            if name is None:
                continue
            column = block.metrics.index(name)
            quality = block.quality[:, column]
            twice += int(np.count_nonzero(quality & np.uint8(Quality.DUPLICATE)))
            for who, watts, mark in zip(block.ids, block.values[:, column], quality, strict=True):
                if np.isfinite(watts):
                    readings.add(who, batch.ts_s, float(watts), 1)
                    wanted.discard(who)
                else:
                    marks[who] = int(mark)
    lines = _left_out({who: marks.get(who, 0) for who in sorted(wanted)})
    if not len(readings):
        why = f": {'; '.join(lines)}" if lines else ""
        raise FormatError(f"has no power readings{why}", file=file)
    for line in lines:
        readings.note(line)
    if twice:
        readings.note(
            f"the power of {twice} places stands several times without a time; the first is kept"
        )
    return readings.trace()


def _left_out(marks: dict[str, int]) -> list[str]:
    """A line for each reason that places have no reading."""
    lines = []
    for flag, why in _LEFT_OUT.items():
        who = [name for name, mark in marks.items() if mark & flag]
        if who:
            count = "1 reading is" if len(who) == 1 else f"{len(who)} readings are"
            lines.append(f"{count} {why} and left out, of {who[0]} for one")
    other = [name for name, mark in marks.items() if not mark & sum(_LEFT_OUT)]
    if other:
        lines.append(f"{len(other)} places have no reading, {other[0]} for one")
    return lines


def _places(text: str, path: Path, file: object) -> set[str]:
    """Ids whose power the text tells.

    Raises FormatError where two devices share an id, and for milliwatts.
    """
    try:
        scrape = Reader().parse(text)
    except FormatError as error:
        raise error.at(file=path) from None
    devices: dict[str, str] = {}
    found: set[str] = set()
    for one, value, ts_s in zip(scrape.series, scrape.values, scrape.ts_s, strict=True):
        target = general(one, path.name)
        if target is None or target.metric not in _POWER:
            continue
        watts = float(value) * target.scale
        if watts > _MILLIWATTS[target.metric] and not is_blank(*_lone(float(value))).item():
            message = f"{watts:g} W looks like milliwatts for {target.id}; wants watts"
            raise FormatError(message, file=file, field=one.name)
        found.add(target.id)
        if target.part == 1.0 and target.device and np.isnan(ts_s):
            before = devices.setdefault(target.id, target.device)
            if before != target.device:
                raise FormatError(
                    f"{before} and {target.device} are both GPU '{target.id}': exporters of "
                    "several nodes without a Hostname label",
                    file=file,
                )
    return found


def _lone(value: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    return np.array([value]), np.array([False])
