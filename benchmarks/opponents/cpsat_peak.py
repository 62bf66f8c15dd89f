"""CP-SAT on the peak of dependent tasks: one JSON problem on stdin, one JSON answer on stdout.

Runs in the opponents' environment and imports nothing of qcluster. The model: an optional interval
a mode, exactly one present a task; precedence as linear constraints on starts and ends; one
cumulative whose capacity is the variable that is minimised, bounded below by the energy bound.
"""

import json
import math
import sys
import threading
import time

from ortools.sat.python import cp_model


def solve(problem: dict) -> dict:
    """Peak, bound and status after ``seconds`` of CPU time with one worker.

    CPU time, so that a busy machine does not cut the opponent short.
    """
    model = cp_model.CpModel()
    deadline, tasks = problem["deadline"], problem["tasks"]
    starts, ends, intervals, demands = {}, {}, [], []
    for task in tasks:
        name = task["id"]
        starts[name] = model.new_int_var(0, deadline, f"s{name}")
        ends[name] = model.new_int_var(0, deadline, f"e{name}")
        present = []
        for k, (duration, watts) in enumerate(task["modes"]):
            if len(task["modes"]) == 1:
                interval = model.new_interval_var(starts[name], duration, ends[name], f"i{name}")
            else:
                used = model.new_bool_var(f"m{name}_{k}")
                present.append(used)
                interval = model.new_optional_interval_var(
                    starts[name], duration, ends[name], used, f"i{name}_{k}"
                )
            if duration and watts:
                intervals.append(interval)
                demands.append(watts)
        if present:
            model.add_exactly_one(present)
    for task in tasks:
        for other in task["after"]:
            model.add(starts[task["id"]] >= ends[other])
    least = [min(d * p for d, p in task["modes"]) for task in tasks]
    most = sum(max(p for _, p in task["modes"]) for task in tasks)
    peak = model.new_int_var(math.ceil(sum(least) / max(deadline, 1)), most, "peak")
    model.add_cumulative(intervals, demands, peak)
    model.minimize(peak)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.max_time_in_seconds = 20 * problem["seconds"]
    solver.parameters.random_seed = problem.get("seed", 0)
    began = time.process_time()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            if time.process_time() - began >= problem["seconds"]:
                solver.stop_search()

    threading.Thread(target=watch, daemon=True).start()
    status = solver.solve(model)
    done.set()
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    return {
        "peak": solver.objective_value if found else None,
        "bound": solver.best_objective_bound,
        "proved": status == cp_model.OPTIMAL,
        "cpu_s": time.process_time() - began,
        "wall_s": solver.wall_time,
    }


if __name__ == "__main__":
    json.dump(solve(json.load(sys.stdin)), sys.stdout)
