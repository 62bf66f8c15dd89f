"""Opponents and BBOB values from an environment of their own, cached by what they were asked.

QCLUSTER_OPPONENTS_HPO names that environment's Python (see opponents/hpo.txt); without it only
what is in the cache can be compared.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import harness
import numpy as np

SCRIPT = Path(__file__).resolve().parent.parent / "opponents" / "hpo_search.py"
VERSIONS = {
    "tpe": "optuna 5.0.0",
    "gpsampler": "optuna 5.0.0",
    "random": "optuna 5.0.0",
    "botorch": "botorch 0.18.1, defaults",
    "botorch-warped": "botorch 0.18.1, Yeo-Johnson",
    "smac": "smac 2.4.1",
}


class Opponents:
    """A child process that answers JSON lines; started at the first question."""

    def __init__(self, *, fresh: bool = False) -> None:
        self.python = os.environ.get("QCLUSTER_OPPONENTS_HPO")
        self.fresh = fresh and self.python is not None
        self._child: subprocess.Popen[str] | None = None

    def ask(self, task: dict[str, Any]) -> Any:
        """The child's answer."""
        if self._child is None:
            if self.python is None:
                raise SystemExit("set QCLUSTER_OPPONENTS_HPO (see benchmarks/opponents/hpo.txt)")
            self._child = subprocess.Popen(
                [self.python, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps(task) + "\n")
        self._child.stdin.flush()
        return json.loads(self._child.stdout.readline())

    def search(self, name: str, task: dict[str, Any]) -> dict[str, Any] | None:
        """An opponent's run, from the cache if it is there; None where it can't run."""
        key = [VERSIONS[name], name, task]
        if self.python is None and not harness.is_cached("hpo", key):
            return None
        return harness.cached(
            "hpo", key, lambda: self.ask({"search": name, **task}), fresh=self.fresh
        )

    def values(self, problem: tuple[int, int, int], x: np.ndarray) -> np.ndarray:
        """Values of a BBOB function (function, dimension, instance) at points of the unit cube."""
        return np.array(self.ask({"values": list(problem), "x": np.atleast_2d(x).tolist()}))

    def optimum(self, problem: tuple[int, int, int]) -> float:
        """The lowest value of a BBOB function."""
        return float(
            harness.cached(
                "hpo", ["optimum", problem], lambda: self.ask({"values": list(problem), "x": None})
            )
        )

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            assert self._child.stdin is not None
            self._child.stdin.close()
            self._child.wait()
            self._child = None
