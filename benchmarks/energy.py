"""Energy: every bar against a named opponent, as ratios from one run.

    python benchmarks/energy.py [--quick] [--fresh] [--only psplib,budget]

Data come from the folder that QCLUSTER_DATA names. Opponents that need an environment of their own
run as subprocesses of the interpreter that QCLUSTER_OPPONENTS_ENERGY names (see
benchmarks/opponents/energy.txt); without it their rows come from the cache or are left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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

PARTS: dict[str, Callable[[bool, bool], Any]] = {
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, at most 10 minutes")
    parser.add_argument("--fresh", action="store_true", help="measure again what is stored")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, comma separated")
    chosen = parser.parse_args()
    for name in chosen.only.split(","):
        results = PARTS[name](chosen.quick, chosen.fresh)
        harness.save(f"energy_{name}", results, ("scipy", "torch", "scikit-learn"))


if __name__ == "__main__":
    main()
