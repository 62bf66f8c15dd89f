"""Peak of dependent tasks: about 1 CPU second of ours against 10 of CP-SAT with one worker.

All 39 PSPLIB instances at hand times three deadlines. Every schedule passes a checker that shares
no code with the library. CP-SAT's model: a cumulative of variable capacity (see
opponents/cpsat_peak.py).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
import numpy as np

from energy_parts.kept import kept
from energy_parts.opponents import ask
from qcluster.q_energy import Schedule, Task, critical_path, level_peak, read_psplib

STRETCHES = (1.0, 1.2, 1.5)
OURS_S, THEIRS_S = 1.0, 10.0
_CODE = (
    "qcluster/q_energy/levelling.py", "qcluster/q_energy/cap_search.py",
    "qcluster/q_energy/lists", "qcluster/q_energy/tasks.py", "qcluster/q_energy/quantum.py",
    "benchmarks/energy_parts/psplib.py",
)  # fmt: skip


def run(quick: bool, fresh: bool) -> dict[str, Any]:
    """One row a set and deadline; quick takes every third instance."""
    rows, cells = [], []
    for name in ("j30", "j60", "j120"):
        paths = sorted((harness.DATA / "energy" / "psplib" / name).glob("*.sm"))
        for stretch in STRETCHES:
            chosen = paths[::3] if quick else paths
            found = [c for path in chosen if (c := _cell(path, stretch, fresh)) is not None]
            cells += found
            rows.append(_row(name, stretch, found))
    harness.table(
        "Peak of dependent tasks, ours about 1 CPU s / CP-SAT 10 CPU s, one thread each",
        ("set", "deadline", "instances", "mean ratio", "worst", "ours <=", "ours <", "to bound",
         "CP-SAT to bound"),
        rows,
    )  # fmt: skip
    if not cells:
        print("CP-SAT: not installed and not cached, left out")
        return {"summary": None, "cells": []}
    both = cells
    large = [c["ours"] / c["cpsat"] for c in both if not c["instance"].startswith("j30")]
    summary = {
        "cells": len(both),
        "mean_cpu_s": float(np.mean([c["cpu_s"] for c in cells])),
        "share_not_worse": sum(c["ours"] <= c["cpsat"] for c in both) / max(len(both), 1),
        "worst_difference_units": max((c["ours"] - c["cpsat"] for c in both), default=None),
        "mean_ratio_j60_j120": float(np.mean(large)) if large else None,
        "j30_not_optimal_at_1.2": [
            c["instance"] for c in both
            if c["proved"] and c["instance"].startswith("j30") and c["stretch"] <= 1.2
            and c["ours"] > c["cpsat"]
        ],
    }  # fmt: skip
    print(json.dumps(summary))
    return {"summary": summary, "cells": cells}


def _cell(path: Path, stretch: float, fresh: bool) -> dict[str, Any] | None:
    tasks = read_psplib(path)
    deadline = math.ceil(stretch * critical_path(tasks) - 1e-9)
    theirs = _cpsat(tasks, deadline, fresh)
    if theirs is None or theirs["peak"] is None:
        return None
    cell = {"part": "psplib", "instance": path.stem, "stretch": stretch}
    ours = kept(cell, _CODE, lambda: _ours(tasks, deadline), fresh=fresh)
    return {
        "instance": path.stem,
        "stretch": stretch,
        **ours,
        "bound": max(ours["bound"], theirs["bound"]),
        "cpsat": theirs["peak"],
        "proved": theirs["proved"],
    }


def _ours(tasks: Sequence[Task], deadline: int) -> dict[str, float]:
    seconds = OURS_S * _slowness()
    cpu = time.process_time()
    schedule = level_peak(tasks, deadline=deadline, deadline_s=seconds)
    cpu = time.process_time() - cpu
    check(tasks, schedule, deadline)
    return {
        "ours": schedule.peak_w,
        "bound": schedule.lower_bound,
        "wall_s": schedule.wall_s,
        "cpu_s": cpu,
    }


def _slowness() -> float:
    """Wall seconds that one CPU second takes now, 1 to 10, so that load cuts neither side short."""
    wall, cpu = time.perf_counter(), time.process_time()
    while time.process_time() - cpu < 0.1:
        pass
    return min(10.0, max(1.0, (time.perf_counter() - wall) / 0.1))


def check(tasks: Sequence[Task], schedule: Schedule, deadline: int) -> None:
    """Precedence, deadline and peak, recomputed from the tasks alone."""
    load = [0.0] * (deadline + 1)
    end = {}
    for task in tasks:
        duration, watts = task.options[schedule.mode[task.id]]
        start = schedule.start[task.id]
        end[task.id] = start + duration
        assert 0 <= start <= end[task.id] <= deadline
        for step in range(start, start + duration):
            load[step] += watts
    assert all(end[o] <= schedule.start[t.id] for t in tasks for o in t.after)
    assert abs(max(load) - schedule.peak_w) < 1e-6


def _cpsat(tasks: Sequence[Task], deadline: int, fresh: bool) -> dict[str, Any] | None:
    problem = {
        "deadline": deadline,
        "seconds": THEIRS_S,
        "tasks": [
            {"id": t.id, "after": t.after, "modes": [(d, int(p)) for d, p in t.options]}
            for t in tasks
        ],
    }

    return ask("cpsat_peak.py", problem, "ortools 9.15.6755", fresh=fresh)


def _row(name: str, stretch: float, cells: Sequence[dict[str, Any]]) -> tuple[Any, ...]:
    if not cells:
        return (name, stretch, 0, *["-"] * 6)
    ours, theirs = (np.array([c[k] for c in cells], float) for k in ("ours", "cpsat"))
    bound = np.array([c["bound"] for c in cells])
    ratio = ours / theirs
    return (
        name, stretch, len(cells), float(ratio.mean()), float(ratio.max()),
        f"{np.mean(ours <= theirs):.0%}", f"{np.mean(ours < theirs):.0%}",
        float((ours / bound).mean()), float((theirs / bound).mean()),
    )  # fmt: skip
