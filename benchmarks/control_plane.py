"""The whole control plane: what a cluster does to it, and how large it may be.

    python benchmarks/control_plane.py [--quick] [--fresh] [--only PART ...]

- gangs, scale: 2,880 GPUs with failed nodes; 8,000 GPUs at 1 Hz;
- cycle: from a sample to the stored joint plan, 72 GPUs;
- storms: bursts, gaps, duplicates and jumping clocks;
- rolling: a new configuration under load without retries;
- leaving: nodes with replicas are ended by SIGTERM under load without retries;
- nodes: a node of three is killed and replaced;
- chaos: every part is killed under load;
- soak: memory and open files over 28,800 ticks.

``--quick`` takes fewer seeds, repeats and ticks.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness import arguments, save, table

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
)

from control_plane_parts import (  # noqa: E402
    chaos,
    cycle,
    leaving,
    node_loss,
    rolling,
    soak,
    storms,
)
from control_plane_parts.gangs import bench_gangs  # noqa: E402
from control_plane_parts.scale import bench_scale  # noqa: E402


def bench_cycle(quick: bool) -> Any:
    """Sample to stored joint plan."""
    with _ray():
        found = cycle.measure(quick=quick)
    rows = [("joint", found["p50_ms"], found["p99_ms"], found["max_ms"])]
    rows += [(name, "", p99, "") for name, p99 in found["by_planner_p99_ms"].items()]
    title = f"Sample to stored plan, ms (bar: p99 <= {cycle.BAR_MS:g}; load {found['load']:.1f})"
    table(title, ("planner", "p50", "p99", "max"), rows)
    return found


def bench_storms(quick: bool) -> Any:
    """Telemetry gone wrong."""
    found = storms.measure(quick=quick)
    columns = ("storm", "snapshots", "plans", "wrong plans", "said so")
    rows = [tuple(row.values()) for row in found["storms"]]
    table("Storms (bar: no wrong plan; what is old says so)", columns, rows)
    return found


def bench_rolling(quick: bool) -> Any:
    """A rollout under load."""
    with _ray():
        found = rolling.measure(quick=quick)
    row = (found["rollouts"], found["answers"], len(found["bad"]), found["load"])
    table("Rollouts under load (bar: 0 bad)", ("rollouts", "answers", "bad", "load"), [row])
    return found


def bench_leaving(quick: bool) -> Any:
    """Nodes are ended by SIGTERM."""
    found = leaving.measure(quick=quick)
    rows = [(r["replicas"], r["answers"], len(r["bad"]), r["load"]) for r in found["rounds"]]
    columns = ("replicas there", "answers", "bad", "load")
    table("SIGTERM of a node under load (bar: 0 bad)", columns, rows)
    return found


def bench_nodes(quick: bool) -> Any:
    """A node is killed."""
    found = node_loss.measure(quick=quick)
    columns = ("noticed", "replanned", "limits_back", "back", "load")
    rows = [tuple(one[name] for name in columns) for one in found["rounds"]]
    table(f"A node of three is killed, s (bar: replanned <= {node_loss.BAR_S:g})", columns, rows)
    return found


def bench_chaos(quick: bool) -> Any:
    """Everything is killed."""
    found = chaos.measure(quick=quick)
    rows = [
        (name, one["deaths"], one["stall_s"], one["bar_s"], one.get("load", 0.0))
        for name, one in found["parts"].items()
    ]
    table(
        f"Kills under load: {found['calls']} calls, {len(found['failed'])} failed, "
        f"{found['lost']} plans lost, {found['doubled']} doubled",
        ("part", "deaths", "worst call, s", "bar, s", "load"),
        rows,
    )
    return found


def bench_soak(quick: bool) -> Any:
    """A long run."""
    found = soak.measure(quick=quick)
    columns = ("second_mb", "last_mb", "ratio", "files_second", "files_last")
    rows = [(name, *(one[c] for c in columns)) for name, one in found["processes"].items()]
    title = f"Memory over {found['ticks']} ticks (bar: ratio <= {soak.BAR:g})"
    table(title, ("process", *columns), rows)
    return found


PARTS: dict[str, Callable[[bool], Any]] = {
    "gangs": bench_gangs,
    "scale": bench_scale,
    "cycle": bench_cycle,
    "storms": bench_storms,
    "rolling": bench_rolling,
    "leaving": bench_leaving,
    "nodes": bench_nodes,
    "chaos": bench_chaos,
    "soak": bench_soak,
}


@contextlib.contextmanager
def _ray() -> Iterator[None]:
    """A Ray of our own while a part runs."""
    from actors.runtime import running_ray

    # Ray's sockets have long names, so the directory must have a short one.
    with (
        tempfile.TemporaryDirectory(prefix="qc-", dir="/tmp", ignore_cleanup_errors=True) as temp,
        tempfile.TemporaryDirectory() as state,
        running_ray("local", Path(state), temp),
    ):
        yield


def main() -> None:
    wanted = list(PARTS)
    if "--only" in sys.argv:
        at = sys.argv.index("--only")
        wanted = [name for name in sys.argv[at + 1 :] if not name.startswith("--")]
        sys.argv[at:] = [name for name in sys.argv[at + 1 :] if name.startswith("--")]
        unknown = sorted(set(wanted) - set(PARTS))
        if unknown or not wanted:
            sys.exit(f"--only wants some of: {', '.join(PARTS)}")
    options = arguments(__doc__ or "")
    if len(wanted) > 1:
        # Each in a process of its own: Ray reads its settings once, and parts want different ones.
        flags = [flag for flag in sys.argv[1:] if flag.startswith("--")]
        for name in wanted:
            subprocess.run([sys.executable, __file__, *flags, "--only", name], check=True)
        return
    save(f"control_plane-{wanted[0]}", PARTS[wanted[0]](options.quick), ("ray",))


if __name__ == "__main__":
    main()
