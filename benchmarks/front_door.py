"""The front door: plan reads, batches, stalls while parts die, and how long starting takes.

    python benchmarks/front_door.py [--quick] [--only reads,batch,kills,start]

Servers stand side by side and are asked in turns, so that the machine's other work hits all:

- reads: a stored plan of a running ``qcluster serve``, through its proxy and from a replica
  itself, against a bare uvicorn that serves the same bytes;
- batch: 64 problems in one POST, against the same solves in this process;
- kills: ``kill -9`` of every part, twice each, under the load of four clients;
- start: process start to the first valid plan of every planner; an import; a solve from a file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import psutil
from harness import HERE, save, table

ROOT = Path(__file__).resolve().parent.parent
sys.path[1:1] = [str(ROOT), str(ROOT / "tests")]

from front_door_parts import kills, reads, start  # noqa: E402
from front_door_parts.servers_beside import (  # noqa: E402
    BARE,
    CLIENTS,
    free_port,
    process,
    wait_for,
)

PARTS = ("reads", "batch", "kills", "start")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, comma separated")
    chosen = parser.parse_args()
    if unknown := set(chosen.only.split(",")) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return chosen


def over_http(parts: set[str], *, quick: bool) -> dict[str, Any]:
    """The parts that ask a running server."""
    rounds, count, seconds = (7, 200, 1.0) if quick else (15, 1000, 3.0)
    port, bare_port = free_port(), free_port()
    url, found = f"http://127.0.0.1:{port}", {}
    with tempfile.TemporaryDirectory() as state:
        command = ["-m", "qcluster", "serve", "--port", str(port), "--state-dir", f"{state}/state"]
        with process(*command, "--telemetry", "simulate:nvl72"):
            wait_for(f"{url}/readyz")
            if "reads" in parts:
                plan_url = f"{url}/v1/plans/energy/latest"
                body = Path(state, "body.json")
                body.write_bytes(httpx.get(plan_url).content)
                urls = {"qcluster": plan_url, "uvicorn": f"http://127.0.0.1:{bare_port}/"}
                if replica := reads.replica_port(psutil.Process()):
                    urls["its replica alone"] = plan_url.replace(str(port), str(replica))
                with process("-c", BARE, str(bare_port), str(body)):
                    wait_for(urls["uvicorn"])
                    measured = reads.read_rounds(urls, rounds=rounds, count=count, seconds=seconds)
                size, load = body.stat().st_size, os.getloadavg()[0]
                found["reads"] = {"bytes": size, "machine_load": load, "by": measured}
            if "batch" in parts:
                found["batch"] = reads.batch(url, rounds=rounds)
    return found


def show(found: dict[str, Any]) -> None:
    """Print what was measured."""
    if told := found.get("reads"):
        table(
            f"A stored plan, {told['bytes']} bytes, {CLIENTS} at a time for requests/s, in turns; "
            f"load {told['machine_load']:.1f} on {os.cpu_count()} cores "
            "(bars: <= 1 ms over, >= 0.333 of uvicorn's)",
            ("", "p50 ms", "p99 ms", "over uvicorn, ms", "requests/s", "share of uvicorn's"),
            [
                (name, 1e3 * m["p50_s"], 1e3 * m["p99_s"], 1e3 * m["over_s"], m["rate"], m["share"])
                for name, m in told["by"].items()
            ],
        )
    if m := found.get("batch"):
        table(
            "64 problems in one POST against this process",
            ("batch s", "in process s", "ratio", "bar"),
            [(m["batch_s"], m["here_s"], m["ratio"], "<= 1.2")],
        )
    if told := found.get("kills"):
        table(
            "kill -9 of a part, twice, four clients calling",
            ("part", "calls", "failed", "plans lost", "worst call s", "bar s", "machine's load"),
            [(part, *m.values()) for part, m in told.items()],
        )
    if m := found.get("start"):
        table(
            f"Starting, load {m['machine_load']:.1f} on {os.cpu_count()} cores",
            ("", "seconds", "CPU s", "bar"),
            [
                ("first valid plan of every planner", m["first_plan_s"], "", "<= 30"),
                ("the slowest of three", m["first_plan_worst_s"], "", ""),
                ("import qcluster", m["import_s"], m["import_cpu_s"], "<= 0.15"),
                ("qcluster solve FILE", m["solve_s"], m["solve_cpu_s"], "<= 1"),
            ],
        )


def main() -> None:
    """Measure what was asked for, print it, and save it beside what is there."""
    chosen = arguments()
    parts = set(chosen.only.split(","))
    found: dict[str, Any] = {}
    if parts & {"reads", "batch"}:
        found |= over_http(parts, quick=chosen.quick)
    if "kills" in parts:
        found["kills"] = kills.measure()
    if "start" in parts:
        found["start"] = start.measure(5 if chosen.quick else 15)
    show(found)
    path = HERE / "results" / "front_door.json"
    before = json.loads(path.read_text())["results"] if path.exists() else {}
    kept = {part: before[part] for part in PARTS if part in before}
    save("front_door", {**kept, **found}, ("ray", "uvicorn", "fastapi"))


if __name__ == "__main__":
    main()
