"""The ADRS leaderboard's EPLB problem: its published solutions and ours, by its own evaluator.

A checkout of the leaderboard is taken from the folder that QCLUSTER_ADRS names. Its load file is
not public, so windows of the shared traces take its place, in its format. Times are CPU time, for
wall time on a busy machine measures the neighbours.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import tempfile
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import harness
import numpy as np

from qcluster.q_routing import rebalance_experts
from routing_parts import loads

FIGURES = ("score", "balancedness_score_gpu", "speed_score", "times_algorithm")


def run(quick: bool, fresh: bool) -> list[dict[str, Any]]:
    """Score every solution of the checkout and ours on each trace."""
    del quick, fresh
    named = os.environ.get("QCLUSTER_ADRS")
    if not named:
        print("ADRS: no checkout is given in QCLUSTER_ADRS, left out")
        return []
    root = Path(named)
    solutions: dict[str, Any] = {
        file.parent.parent.name: file
        for file in sorted((root / "solutions" / "eplb").glob("*/resources/solution.py"))
    }
    rows, results = [], []
    for trace, windows in _series().items():
        with tempfile.TemporaryDirectory() as folder:
            evaluator = _evaluator(root, windows, Path(folder))
            ours = {"ours": _ours(1, 1), "ours, groups on nodes": _ours(8, 4)}
            for name, given in {**solutions, **ours}.items():
                module = given if not isinstance(given, Path) else _program(evaluator, given)
                with contextlib.redirect_stdout(io.StringIO()):
                    evaluator.evaluate_program(module)  # compiles, fills caches
                    found = evaluator.evaluate_program(module)
                result = {"trace": trace, "solution": name, "error": found.get("error")}
                result |= {figure: found[figure] for figure in FIGURES}
                results.append(result)
                rows.append((trace, name, *(found[figure] for figure in FIGURES[:3]),
                             1e3 * found["times_algorithm"]))  # fmt: skip
    harness.table(
        "ADRS EPLB evaluator: plan on a window of 1,000 tokens, scored on the next",
        ("trace", "solution", "score", "balancedness", "speed score", "CPU ms"),
        rows,
    )
    return results


def _series() -> dict[str, np.ndarray]:
    """Loads (steps, layers, experts) of 10 tokens each; the evaluator sums 100 of them."""
    found = {}
    for task in ("intent", "law"):
        found[f"stationary {task}"] = loads.stationary(task, 10)
    found["alternating"] = loads.alternating(10)
    return found


def _evaluator(root: Path, windows: np.ndarray, folder: Path) -> ModuleType:
    module: Any = _load(root / "problems" / "eplb" / "evaluator.py")
    data = folder / "expert-load.json"
    history = [{"logical_expert_load": w.astype(int).tolist()} for w in windows]
    data.write_text(json.dumps({"load_history": history}))
    module.WORKLOAD_PATH, module.OUTPUT_PROGRAM = str(data), folder / "program.py"
    module.time = SimpleNamespace(perf_counter=time.thread_time)
    return module


def _program(evaluator: Any, file: Path) -> Any:
    module: Any = _load(file)
    if hasattr(module, "rebalance_experts"):
        return module
    return evaluator.load_program_module(evaluator.materialize_program(module.Solution().solve()))


def _ours(groups: int, nodes: int) -> Any:
    def call(weight: Any, slots: int, _groups: int, _nodes: int, gpus: int) -> Any:
        return rebalance_experts(weight, slots, groups, nodes, gpus)

    return SimpleNamespace(rebalance_experts=call)


def _load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"adrs_{file.parent.parent.name}", file)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
