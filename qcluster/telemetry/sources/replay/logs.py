"""Two texts that others keep: MLPerf's power logs, and saved scrapes of an exporter.

    :::MLLOG {"time_ms": 1715275083948, "key": "power_reading", "value": 2347, ...}

An MLPerf log is one node's, named after the file. A saved scrape has no time of its own unless its
samples carry one; it is played as one batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from qcluster.errors import FormatError
from qcluster.telemetry.schema import Batch
from qcluster.telemetry.sources.endpoint import Endpoint
from qcluster.telemetry.sources.exposition import Reader, Scrape
from qcluster.telemetry.sources.prometheus import general
from qcluster.telemetry.sources.replay.cells import Cells
from qcluster.telemetry.sources.strict import load_json, number
from qcluster.telemetry.topology import Topology

__all__ = ["mllog_cells", "read_scrape"]

_MARK = ":::MLLOG"


def mllog_cells(text: str, path: Path) -> Cells:
    """The power readings of an MLPerf log as columns time_ms, node, power_w.

    Raises FormatError naming the row of a line that is cut or has no number.
    """
    times, powers, rows = [], [], []
    for row, line in enumerate(text.splitlines(), start=1):
        # Launchers put the rank before every line.
        _, found, rest = line.partition(_MARK)
        if not found:
            continue
        try:
            entry = load_json(rest.strip())
            if not isinstance(entry, Mapping) or entry.get("key") != "power_reading":
                continue
            times.append(repr(number(entry.get("time_ms"), "time_ms")))
            powers.append(repr(number(entry.get("value"), "value")))
            rows.append(row)
        except FormatError as error:
            raise error.at(file=path, row=row) from None
    if not times:
        raise FormatError("holds no power readings", file=path)
    node = path.name.removesuffix(".gz").rpartition(".")[0]
    columns = {"time_ms": tuple(times), "node": (node,) * len(times), "power_w": tuple(powers)}
    return Cells(columns, rows)


def read_scrape(text: str, path: Path, source: str) -> Iterator[Batch]:
    """The batches of a saved scrape.

    One at the newest time that it carries, 0 if none; where series stand several times, each at a
    time of its own, one batch a time.
    """
    try:
        scrape = Reader().parse(text)
        endpoint = Endpoint(path.name, general)
        empty = True
        for ts_s, part in _by_time(scrape):
            blocks = endpoint.read(part, ts_s)
            empty = empty and not blocks
            if blocks:
                topology = Topology(nodes=endpoint.nodes())
                yield Batch(source=source, ts_s=ts_s, blocks=blocks, topology=topology)
    except FormatError as error:
        raise error.at(file=path) from None
    if empty:
        raise FormatError("has no series that telemetry knows", file=path)


def _by_time(scrape: Scrape) -> Iterator[tuple[float, Scrape]]:
    known = np.isfinite(scrape.ts_s)
    stamped = [one for one, has in zip(scrape.series, known, strict=True) if has]
    if len(set(map(id, stamped))) == len(stamped):
        yield float(max(scrape.ts_s[known], default=0.0)), scrape
        return
    for ts_s in np.unique(scrape.ts_s[known]):
        here = np.flatnonzero(scrape.ts_s == ts_s)
        series = [scrape.series[i] for i in here]
        yield float(ts_s), Scrape(series, scrape.values[here], scrape.ts_s[here])
