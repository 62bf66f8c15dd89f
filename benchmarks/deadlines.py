"""How well deadlines are kept: the time an answer takes, over the time that it was given.

    python benchmarks/deadlines.py [--quick] [--fresh]

Live planners on simulated clusters of three sizes, each with 0.1, 0.3 and 1 s; the gateway to
quantum backends with one that hangs and with none; the parser of pushed telemetry on nonsense that
is large. CPU time is the planner's own and does not depend on what else the machine does; the
gateway waits, so its time is the clock's. The first plan of a planner is left out: it has no plan
to keep to, and the next is what a running server makes. What was measured before is kept:
a run that was stopped goes on where it was.
"""

from __future__ import annotations

import functools
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from harness import HERE, arguments, cached, is_cached, save, table

sys.path.insert(1, str(HERE.parent))
from qcluster.deadline import Deadline
from qcluster.errors import FormatError
from qcluster.planner import Planner
from qcluster.telemetry import Ring, Snapshot
from qcluster.telemetry.sources.simulate import Simulator, parse

DEADLINES_S = (0.1, 0.3, 1.0)
HOPELESS_S = 20.0
CLUSTERS = {72: "nvl72,nodes=18", 512: "dgx-h100,nodes=64", 2048: "dgx-h100,nodes=256"}
NONSENSE = {
    "a name twice among 100,000": b"{" + b",".join(b'"k%d":1' % i for i in range(100_000))
    + b',"k99999":1}',
    "200,000 lines of no sample": b'{"a":1}\n' * 200_000,
    "a million brackets": b"[" * 1_000_001,
}  # fmt: skip


def snapshots(spec: str, count: int) -> Iterator[Snapshot]:
    """A simulated cluster, second by second."""
    simulator, ring = Simulator(parse(spec)[0], start_ts_s=1000.0), Ring()
    for tick in range(count + 3):
        ring.add(simulator.step())
        if tick >= 3:
            yield ring.snapshot()


def planners() -> dict[str, Callable[[], Planner]]:
    """Makers of the live planners."""
    from qcluster.q_energy import EnergyPlanner
    from qcluster.q_nvlink import NVLinkPlanner
    from qcluster.q_routing.planner import RoutingPlanner

    return {
        "routing": lambda: RoutingPlanner({}),
        "energy": lambda: EnergyPlanner({}),
        "nvlink": lambda: NVLinkPlanner({}),
    }


def plan_times(
    make: Callable[[], Planner], seen: list[Snapshot], deadline_s: float
) -> tuple[list[float], list[float]]:
    """Seconds of CPU and by the clock that each plan but the first took."""
    planner, plan = make(), None
    planner.warm_up()
    cpu, wall = [], []
    for snapshot in seen:
        cpu_begun, begun = time.process_time(), time.perf_counter()
        plan = planner.plan(snapshot, plan, {}, deadline=Deadline.after(deadline_s))
        cpu.append(time.process_time() - cpu_begun)
        wall.append(time.perf_counter() - begun)
        if wall[-1] > HOPELESS_S:
            return cpu[-1:], wall[-1:]  # more of the same would tell nothing more
    return cpu[1:], wall[1:]


def gateway_times(deadline_s: float, repeats: int, *, hangs: bool) -> list[float]:
    """Seconds by the clock until the gateway's answer, with a backend that never gives one."""
    from qcluster.quantum.backends.backend import BuiltinBackend
    from qcluster.quantum.backends.circuit import Circuit
    from qcluster.quantum.backends.gateway import Gateway

    release = threading.Event()

    class Hangs(BuiltinBackend):
        def __init__(self) -> None:
            self.name = "hangs"

        def run(self, *_: Any, **__: Any) -> Any:
            release.wait()
            raise RuntimeError

    bell = Circuit(2, (("h", (0,), 0.0), ("cx", (0, 1), 0.0)))
    took = []
    for _ in range(repeats):
        gateway = Gateway([Hangs()] if hangs else [])  # its own, before it learns to pass by
        begun = time.perf_counter()
        gateway.run([bell], shots=50, deadline=Deadline.after(deadline_s))
        took.append(time.perf_counter() - begun)
    release.set()
    return took


def refused_s(data: bytes, repeats: int) -> float:
    """Median seconds of CPU until nonsense is refused."""
    from qcluster.telemetry.sources.push import parse_samples

    took = []
    for _ in range(repeats):
        begun = time.process_time()
        try:
            parse_samples(data)
        except FormatError:
            took.append(time.process_time() - begun)
    return statistics.median(took)


def p99(values: list[float]) -> float:
    """The 99th percentile; the worst of fewer than a hundred."""
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))]


def row(name: str, deadline_s: float, own: list[float], wall: list[float]) -> tuple[Any, ...]:
    """One line of the table: ratios to the deadline."""
    return (
        name, deadline_s, len(own), statistics.median(own) / deadline_s, p99(own) / deadline_s,
        statistics.median(wall) / deadline_s, p99(wall) / deadline_s,
    )  # fmt: skip


def main() -> None:
    """Measure, print, save."""
    options = arguments(__doc__ or "")
    quick, repeats, rows = options.quick, (5 if options.quick else 60), []
    for gpus, spec in CLUSTERS.items():
        keys_of = {name: [(name, spec, d, repeats) for d in DEADLINES_S] for name in planners()}
        known = all(is_cached("deadlines", key) for one in keys_of.values() for key in one)
        seen = [] if known and not options.fresh else list(snapshots(spec, repeats + 1))
        for name, make in planners().items():
            for key in keys_of[name]:
                again = functools.partial(plan_times, make, seen, key[2])
                took = cached("deadlines", key, again, fresh=options.fresh)
                rows.append(row(f"{name}, {gpus} GPUs", key[2], *took))
                print(*(f"{v:.3g}" if isinstance(v, float) else v for v in rows[-1]), flush=True)
    for hangs, name in ((True, "gateway, backend hangs"), (False, "gateway, no backend")):
        for deadline_s in DEADLINES_S:
            wall = gateway_times(deadline_s, repeats, hangs=hangs)
            rows.append(row(name, deadline_s, wall, wall))
    machine = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    table(
        f"Time of an answer / its deadline; {machine}",
        ("", "deadline s", "answers", "CPU median", "CPU p99", "clock median", "clock p99"),
        rows,
    )
    nonsense = {name: refused_s(data, 3 if quick else 9) for name, data in NONSENSE.items()}
    table("Telemetry that is refused", ("", "CPU s"), list(nonsense.items()))
    keys = ("what", "deadline_s", "answers", "cpu_p50", "cpu_p99", "clock_p50", "clock_p99")
    results = {"deadlines": [dict(zip(keys, one, strict=True)) for one in rows]}
    save("deadlines", {**results, "refused_cpu_s": nonsense})


if __name__ == "__main__":
    main()
