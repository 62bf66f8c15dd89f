"""Energy: every bar against a named opponent, as ratios from one run.

    python benchmarks/energy.py [--quick] [--fresh] [--only psplib,budget]

Data come from the folder that QCLUSTER_DATA names. Opponents that need an environment of their own
run as subprocesses of the interpreter that QCLUSTER_OPPONENTS_ENERGY names (see
benchmarks/opponents/energy.txt); without it their rows come from the cache or are left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import harness
from energy_parts import (
    budget,
    closed_loop,
    forecast,
    frontier,
    learned,
    limits,
    psplib,
    qaoa,
    replan,
    shaping,
)

PARTS: dict[str, harness.Part] = {
    "psplib": psplib.run,
    "budget": budget.run,
    "replan": replan.run,
    "frontier": frontier.run,
    "forecast": forecast.run,
    "qaoa": qaoa.run,
    "shaping": shaping.run,
    "limits": limits.run,
    "learned": learned.run,
    "closed-loop": closed_loop.run,
}


if __name__ == "__main__":
    harness.run_parts("energy", __doc__, PARTS, ("scipy", "torch", "scikit-learn"))
