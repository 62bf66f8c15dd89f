"""Power readings in the text of Prometheus exporters."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qcluster.errors import FormatError
from qcluster.q_energy.readings import Readings
from qcluster.q_energy.trace import PowerTrace
from qcluster.telemetry.schema import Quality
from qcluster.telemetry.sources.exposition import Reader
from qcluster.telemetry.sources.prometheus import general
from qcluster.telemetry.sources.replay.logs import read_scrape

__all__ = ["read_scrape_text"]

_POWER = ("power_w", "node_power_w")


def read_scrape_text(text: str, file: object) -> PowerTrace:
    """The power in a saved scrape, at the times its samples carry, one reading each if none.

    Blanks are left out with a warning. Raises FormatError where there is no power, and where two
    devices answer to one place.
    """
    path = Path(str(file or "scrape"))
    wanted = _places(text, path, file)
    readings = Readings(file=file)
    twice = 0
    for batch in read_scrape(text, path, "file"):
        for block in batch.blocks:
            name = next((m for m in _POWER if m in block.metrics), None)
            if name is None:
                continue
            column = block.metrics.index(name)
            twice += int(np.count_nonzero(block.quality[:, column] & np.uint8(Quality.DUPLICATE)))
            for who, watts in zip(block.ids, block.values[:, column], strict=True):
                if np.isfinite(watts):
                    readings.add(who, batch.ts_s, float(watts), 1)
                    wanted.discard(who)
    if not len(readings):
        raise FormatError("has no power readings", file=file)
    if wanted:
        readings.note(f"{len(wanted)} power readings are blank or out of range and left out")
    if twice:
        readings.note(
            f"the power of {twice} places stands several times without a time; the first is kept"
        )
    return readings.trace()


def _places(text: str, path: Path, file: object) -> set[str]:
    """Ids whose power the text tells.

    Raises FormatError where two devices share an id.
    """
    try:
        scrape = Reader().parse(text)
    except FormatError as error:
        raise error.at(file=path) from None
    devices: dict[str, str] = {}
    found: set[str] = set()
    for one, ts_s in zip(scrape.series, scrape.ts_s, strict=True):
        target = general(one, path.name)
        if target is None or target.metric not in _POWER:
            continue
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
