"""Training: every bar against a named opponent, from one run.

    python benchmarks/training.py [--quick] [--fresh] [--only leaks,parity]

Data come from the folder that QCLUSTER_DATA names; MiniLM's directory (weights and vocab.txt of the
package in benchmarks/opponents/training.txt) from QCLUSTER_MINILM. Finished parts are cached, so an
interrupted run goes on. Times are CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import harness
import torch
from training_parts import leaks, parity, sampled, scaling, shakespeare

PARTS: dict[str, Callable[[bool, bool], Any]] = {
    "parity": parity.run,
    "step": shakespeare.run_step,
    "leaks": leaks.run,
    "scaling": scaling.run,
    "shakespeare": shakespeare.run,
    "sampled": sampled.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, at most 10 minutes")
    parser.add_argument("--fresh", action="store_true", help="measure again what is stored")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, comma separated")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for name in chosen.only.split(","):
        results = PARTS[name](chosen.quick, chosen.fresh)
        harness.save(f"training_{name}", results, ("torch", "transformers", "ray"))


if __name__ == "__main__":
    main()
