"""Recorded telemetry played again: ``replay:FILE[?KEY=VALUE&...][@SPEED]``.

FILE is one of these, text also as ``.gz`` and in UTF-16 with its mark:

    CSV      node,run,time_ms,power_w (node power), ts_s,node,gpu,power_w,... (wide), or the log of
             nvidia-smi --query-gpu=timestamp,index,power.draw,... --format=csv; cells apart by
             comma, semicolon (then with decimal commas) or tab
    JSONL    samples as ``push`` takes them, one a line
    txt log  MLPerf's power log of one node
    prom     a saved scrape of an exporter
    npz      expert_ids (tokens, layers, k), cut into windows, or expert_load (windows, layers,
             experts)

SPEED is trace seconds a real second (1 without it), ``max`` as fast as it can be read. Keys:

    run=NAME   only this run of a CSV with a run column
    window=N   tokens of one window (1000)
    period=S   seconds between batches (the file's own median step; 1 for npz)
    loop=1     begin again at the end

What a recording does not say of its cluster, the sources ``topology`` and ``jobs`` can.

Time stamps keep the trace's own spacing, whatever the speed, so that rates come out right; they
are moved so that the first sample happens at the moment of start, because planners judge age
against the clock. ``read`` gives them unmoved.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import math
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from qcluster.errors import FormatError, InputError
from qcluster.telemetry.schema import Batch
from qcluster.text_file import read_text

__all__ = ["Recording", "Replay", "read"]

_KEYS = {"run", "window", "period", "loop"}


@dataclass(frozen=True)
class Recording:
    """What to play and how. ``period_s`` of None takes the recording's own."""

    path: Path
    speed: float = 1.0
    run: str | None = None
    window: int = 1000
    period_s: float | None = None
    loop: bool = False

    @classmethod
    def parse(cls, argument: str) -> Recording:
        """From the part of a spec after the colon.

        Raises InputError for a bad key or speed or a file that is not there.
        """
        rest, speed = _cut_speed(argument)
        name, mark, query = rest, "", ""
        if not Path(rest).exists():
            name, mark, query = rest.partition("?")
        if not name:
            raise InputError("wants replay:FILE[@SPEED]", field="replay")
        options = dict(part.partition("=")[::2] for part in query.split("&")) if mark else {}
        for key in options:
            if key not in _KEYS:
                raise InputError(f"a replay knows {', '.join(sorted(_KEYS))}", field=key)
        return cls(
            _there(name),
            speed,
            run=options.get("run"),
            window=int(_positive(options.get("window", "1000"), "window")),
            period_s=_positive(options["period"], "period") if "period" in options else None,
            loop=options.get("loop", "0") not in ("0", "", "no", "false"),
        )


class Replay:
    """A recording as a source."""

    def __init__(self, argument: str) -> None:
        self.name = f"replay:{argument}"
        self.recording = Recording.parse(argument)

    async def batches(self) -> AsyncIterator[Batch]:
        """The recording's batches at its speed; ends with it unless it loops."""
        speed = self.recording.speed
        begin, clock = time.time(), time.monotonic()
        shift: float | None = None
        while True:
            # Reading is the slow part: it must not hold up the loop.
            batches = await asyncio.to_thread(lambda: list(read(self.recording)))
            first, last = batches[0].ts_s, batches[-1].ts_s
            shift = begin - first if shift is None else shift
            for batch in batches:
                ts_s = batch.ts_s + shift
                await asyncio.sleep(max(0.0, clock + (ts_s - begin) / speed - time.monotonic()))
                # In slow motion batches come further apart than their time stamps say.
                period_s = batch.period_s / min(1.0, speed)
                yield dataclasses.replace(batch, ts_s=ts_s, period_s=period_s, source=self.name)
            if not self.recording.loop:
                return
            shift += last - first + batches[-1].period_s


def read(recording: Recording | str | Path) -> Iterator[Batch]:
    """The batches of a recording with their own time stamps, in order of time.

    Raises FormatError naming file, row and field.
    """
    if not isinstance(recording, Recording):
        recording = Recording(Path(recording))
    empty = True
    for batch in _read(recording):
        empty = False
        yield batch
    if empty:
        raise FormatError("holds no samples", file=recording.path)


def _read(recording: Recording) -> Iterable[Batch]:
    path, source = recording.path, f"replay:{recording.path.name}"
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if kind in ("csv", "tsv", "txt", "log"):
        from qcluster.telemetry.sources.replay.cells import csv_cells
        from qcluster.telemetry.sources.replay.logs import mllog_cells
        from qcluster.telemetry.sources.replay.table import read_table

        is_table = kind in ("csv", "tsv")
        cells = csv_cells(path) if is_table else mllog_cells(read_text(path), path)
        return read_table(cells, path, source, run=recording.run, period_s=recording.period_s)
    if kind in ("prom", "metrics"):
        from qcluster.telemetry.sources.replay.logs import read_scrape

        return read_scrape(read_text(path), path, source)
    if kind == "npz":
        from qcluster.telemetry.sources.replay.routing import read_routing

        return read_routing(path, source, recording.window, recording.period_s or 1.0)
    if kind in ("jsonl", "ndjson", "json"):
        from qcluster.telemetry.sources.samples import parse_samples

        try:
            # A recording has no "now": nothing in it is ahead of our clock.
            batches = parse_samples(read_text(path), source=source, now=math.inf)
        except FormatError as error:
            raise error.at(file=path) from None
        return _with_period(batches, recording.period_s, path)
    raise FormatError("wants .csv, .tsv, .jsonl, .npz, .txt or .prom (also .gz)", file=path)


def _with_period(batches: list[Batch], period_s: float | None, path: Path) -> list[Batch]:
    if not math.isfinite(batches[-1].ts_s):
        raise FormatError("a recorded sample needs it", file=path, field="ts_s")
    times = [batch.ts_s for batch in batches]
    steps = sorted(b - a for a, b in itertools.pairwise(times))
    period = period_s or (steps[len(steps) // 2] if steps else 1.0)
    return [dataclasses.replace(batch, period_s=period) for batch in batches]


def _cut_speed(argument: str) -> tuple[str, float]:
    rest, mark, text = argument.rpartition("@")
    if not mark or Path(argument).exists():
        return argument, 1.0
    return rest, math.inf if text == "max" else _positive(text, "speed")


def _positive(text: str, field: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"wants a number above 0, got '{text}'", field=field)
    return value


def _there(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_file():
        raise InputError("there is no such file", file=name)
    return path
