"""Routing: every bar against a named opponent, as ratios from one run.

    python benchmarks/routing.py [--quick] [--fresh] [--only placement,split]

Data come from the folder that QCLUSTER_DATA names. SGLang's EPLB comes from QCLUSTER_SGLANG or from
its wheel; DeepSeek's from a checkout in QCLUSTER_DEEPSEEK_EPLB, the ADRS leaderboard from one in
QCLUSTER_ADRS (see routing_parts/opponents.py and adrs.py).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import harness
from routing_parts import adrs, placement, quantum, replan, split, tokens, traffic

PARTS: dict[str, Callable[[bool, bool], Any]] = {
    "placement": placement.run,
    "split": split.run,
    "tokens": tokens.run,
    "replan": replan.run,
    "traffic": traffic.run,
    "adrs": adrs.run,
    "quantum": quantum.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats, at most 10 minutes")
    parser.add_argument("--fresh", action="store_true", help="measure again what is stored")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, comma separated")
    chosen = parser.parse_args()
    for name in chosen.only.split(","):
        results = PARTS[name](chosen.quick, chosen.fresh)
        harness.save(f"routing_{name}", results, ("scipy", "torch"))


if __name__ == "__main__":
    main()
