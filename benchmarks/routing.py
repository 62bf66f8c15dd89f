"""Routing: every bar against a named opponent, as ratios from one run.

    python benchmarks/routing.py [--quick] [--fresh] [--only placement,split]

Data come from the folder that QCLUSTER_DATA names. SGLang's EPLB comes from QCLUSTER_SGLANG or from
its wheel; DeepSeek's from a checkout in QCLUSTER_DEEPSEEK_EPLB, the ADRS leaderboard from one in
QCLUSTER_ADRS (see routing_parts/opponents.py and adrs.py).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import harness
from routing_parts import adrs, placement, quantum, replan, split, tokens, traffic

PARTS: dict[str, harness.Part] = {
    "placement": placement.run,
    "split": split.run,
    "tokens": tokens.run,
    "replan": replan.run,
    "traffic": traffic.run,
    "adrs": adrs.run,
    "quantum": quantum.run,
}


if __name__ == "__main__":
    harness.run_parts("routing", __doc__, PARTS, ("scipy", "torch"))
