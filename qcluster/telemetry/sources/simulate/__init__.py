"""The simulator as a source: ``simulate[:RACK][,KEY=VALUE...]``.

RACK is ``nvl72`` (GB200 NVL72, default), ``dgx-h100`` (4 nodes x 8) or ``dgx1-v100``. Keys:

    seed=N        another cluster, another history              (0)
    period=S      seconds of cluster time in a batch            (1)
    speed=X       cluster seconds a real second; max = no pause (1)
    nodes=N       size of the cluster                           (the rack's own)
    layers=N experts=N   size of the mixture-of-experts job     (the rack's own)
    fault=...     may be repeated; see ``faults.py`` for the form

e.g. ``simulate:nvl72,seed=3,period=2,fault=link_down@30+60:node03/2``. Every batch says that it is
simulated.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections.abc import AsyncIterator
from typing import Any

from qcluster.errors import InputError
from qcluster.telemetry.schema import Batch
from qcluster.telemetry.sources.simulate.faults import Fault, seconds
from qcluster.telemetry.sources.simulate.racks import RACKS
from qcluster.telemetry.sources.simulate.simulator import Scenario, Simulator

__all__ = ["Fault", "Scenario", "Simulate", "Simulator", "parse"]

_LIMITS = {"seed": 2**63 - 1, "nodes": 256, "layers": 1000, "experts": 4096}


class Simulate:
    """A simulated cluster, paced by the wall clock times ``speed``."""

    def __init__(self, argument: str = "") -> None:
        self.name = f"simulate:{argument}" if argument else "simulate"
        self.scenario, self.speed = parse(argument)
        # Built once here so that a bad subject of a fault is refused when the source is opened.
        Simulator(self.scenario)

    async def batches(self) -> AsyncIterator[Batch]:
        """Batches without end, stamped with the time of day at which they are due."""
        # The first period is taken to have passed already: no sample comes from the future.
        begin, clock = time.time() - self.scenario.period_s, time.monotonic()
        simulator = Simulator(self.scenario, start_ts_s=begin)
        while True:
            # In slow motion batches come further apart than their time stamps say.
            period_s = self.scenario.period_s / min(1.0, self.speed)
            batch = dataclasses.replace(simulator.step(), source=self.name, period_s=period_s)
            due = clock + (simulator.t - self.scenario.period_s) / self.speed
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            yield batch


def parse(argument: str) -> tuple[Scenario, float]:
    """Scenario and speed from the part of a spec after the colon.

    Raises InputError naming the key that is wrong, NotFound for an unknown rack.
    """
    fields: dict[str, Any] = {}
    faults: list[Fault] = []
    speed = 1.0
    for part in filter(None, (p.strip() for p in argument.split(","))):
        key, found, text = part.partition("=")
        if not found:
            fields["rack"] = key
        elif key == "fault":
            faults.append(Fault.parse(text))
        elif key == "period":
            fields["period_s"] = _above_zero(text, key)
        elif key == "speed":
            speed = math.inf if text == "max" else _above_zero(text, key)
        elif key in _LIMITS:
            fields[key] = _count(text, key)
        else:
            known = ", ".join(["fault", "period", "speed", *_LIMITS])
            raise InputError(
                f"the simulator knows {known}, and racks {', '.join(RACKS)}", field=key
            )
    return Scenario(**fields, faults=tuple(faults)), speed


def _above_zero(text: str, key: str) -> float:
    value = seconds(text, key)
    if value == 0:
        raise InputError("wants a number above 0", field=key)
    return value


def _count(text: str, key: str) -> int:
    low = 0 if key == "seed" else 1
    if not text.isdigit() or not low <= int(text) <= _LIMITS[key]:
        raise InputError(
            f"wants a whole number from {low} to {_LIMITS[key]}, got '{text}'", field=key
        )
    return int(text)
