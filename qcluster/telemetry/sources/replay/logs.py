"""Two texts that others keep: MLPerf's power logs, and saved scrapes of an exporter.

    :::MLLOG {"time_ms": 1715275083948, "key": "power_reading", "value": 2347, ...}

An MLPerf log is one node's, named after the file. A saved scrape has no time of its own unless its
samples carry one; it is played as one batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from qcluster.errors import FormatError
from qcluster.telemetry.schema import Batch
from qcluster.telemetry.sources.endpoint import Endpoint
from qcluster.telemetry.sources.exposition import Reader
from qcluster.telemetry.sources.prometheus import general
from qcluster.telemetry.sources.strict import load_json, number
from qcluster.telemetry.topology import Topology

__all__ = ["mllog_cells", "read_scrape"]

_MARK = ":::MLLOG"


def mllog_cells(text: str, path: Path) -> dict[str, tuple[str, ...]]:
    """The power readings of an MLPerf log as columns time_ms, node, power_w.

    Raises FormatError naming the row of a line that is cut or has no number.
    """
    times, powers = [], []
    for row, line in enumerate(text.splitlines(), start=1):
        if not line.startswith(_MARK):
            continue
        try:
            entry = load_json(line.removeprefix(_MARK).strip())
            if not isinstance(entry, Mapping) or entry.get("key") != "power_reading":
                continue
            times.append(repr(number(entry.get("time_ms"), "time_ms")))
            powers.append(repr(number(entry.get("value"), "value")))
        except FormatError as error:
            raise error.at(file=path, row=row) from None
    if not times:
        raise FormatError("holds no power readings", file=path)
    node = path.name.removesuffix(".gz").rpartition(".")[0]
    return {"time_ms": tuple(times), "node": (node,) * len(times), "power_w": tuple(powers)}


def read_scrape(text: str, path: Path, source: str) -> Iterator[Batch]:
    """One batch of a saved scrape, at the newest time that it carries, 0 if none."""
    try:
        stamps = Reader().parse(text).ts_s
        now = float(max(stamps[stamps == stamps], default=0.0))
        endpoint = Endpoint(path.name, general)
        blocks = endpoint.blocks(text, now)
    except FormatError as error:
        raise error.at(file=path) from None
    if not blocks:
        raise FormatError("has no series that telemetry knows", file=path)
    topology = Topology(nodes=endpoint.nodes())
    yield Batch(source=source, ts_s=now, blocks=blocks, topology=topology)
