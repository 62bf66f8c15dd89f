"""Hyperparameter search: every bar against a named opponent.

Regret is normalised by the median regret of random search with the same budget on the same task and
floored at 0.01 of it; ratios are of geometric means over the same tasks. The opponents and the BBOB
functions run in the environment that QCLUSTER_OPPONENTS_HPO names (see
benchmarks/opponents/hpo.txt); without it their figures come from the cache or are left out.

    python benchmarks/hpo.py [--quick] [--fresh] [--part NAME ...]

Runs resume: what was measured with the same source is not measured again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import harness
from hpo_parts import bbob, fidelity, rivals, tables, warm
from hpo_parts.opponents import Opponents

PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "gp": bbob.gp_row,
    "arms": bbob.arms_row,
    "trained": bbob.trained_row,
    "crashes": tables.crash_row,
    "tables": tables.table_row,
    "rivals": rivals.rivals_row,
    "warm": warm.warm_row,
    "fidelity": fidelity.fidelity_row,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, at most 10 minutes")
    parser.add_argument("--fresh", action="store_true", help="measure again what is stored")
    parser.add_argument("--part", action="append", choices=list(PARTS), help="only this part")
    parser.add_argument(
        "--seeds",
        type=int,
        default=20,
        help="of the parts 'arms', 'tables' and 'warm' (at most 10)",
    )
    options = parser.parse_args()
    world = Opponents(fresh=options.fresh)
    results = {}
    try:
        for name in options.part or PARTS:
            more = {"seeds": options.seeds} if name in ("arms", "tables", "warm") else {}
            results[name] = PARTS[name](world, quick=options.quick, fresh=options.fresh, **more)
    finally:
        world.close()
    name = "hpo" if not options.part else "hpo-" + "-".join(options.part)
    harness.save(name, results, packages=("scipy",))


if __name__ == "__main__":
    main()
