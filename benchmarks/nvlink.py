"""What q_nvlink gives against what people use: ratios measured in one run.

python benchmarks/nvlink.py [--quick] [--fresh] [--only PART ...]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from harness import arguments, save
from nvlink_parts.agents import bench_agents
from nvlink_parts.alltoall import bench_hard, bench_one_tier, bench_two_tiers
from nvlink_parts.choice import bench_choice, bench_estimate
from nvlink_parts.collectives import bench_collectives
from nvlink_parts.colouring import bench_colouring
from nvlink_parts.contention import bench_classifier
from nvlink_parts.live import bench_live
from nvlink_parts.mapping import bench_mapping
from nvlink_parts.partition import bench_partition, bench_unseen

PARTS: dict[str, Callable[[bool, bool], Any]] = {
    "gpu_choice": bench_choice,
    "all_to_all_one_tier": bench_one_tier,
    "all_to_all_two_tiers": bench_two_tiers,
    "all_to_all_hard": bench_hard,
    "collectives": bench_collectives,
    "mapping": bench_mapping,
    "partition": bench_partition,
    "partition_unseen": bench_unseen,
    "classifier": bench_classifier,
    "agents": bench_agents,
    "live": bench_live,
    "estimate": bench_estimate,
    "colouring": bench_colouring,
}


def main() -> None:
    wanted = list(PARTS)
    if "--only" in sys.argv:
        at = sys.argv.index("--only")
        wanted = sys.argv[at + 1 :]
        del sys.argv[at:]
        unknown = sorted(set(wanted) - set(PARTS))
        if unknown or not wanted:
            sys.exit(f"--only wants some of: {', '.join(PARTS)}")
    options = arguments(__doc__ or "")
    results = {name: PARTS[name](options.quick, options.fresh) for name in wanted}
    partial = "" if len(wanted) == len(PARTS) else "-" + "-".join(wanted)
    save(f"nvlink{partial}", results, ["networkx", "scipy", "scikit-learn"])


if __name__ == "__main__":
    main()
