"""PyTorch's own test_multihead_attention cases with our class in torch's place.

The file is not in the wheel: QCLUSTER_TORCH_MHA_TESTS names it (test/nn/test_multihead_attention.py
of the PyTorch release that is installed, or of a later one). It imports expecttest.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import harness

_RUN = """
import sys, unittest, runpy
import torch
from qcluster.qtransformers import QuantumMultiheadAttention as Ours
for module in (torch.nn, torch.nn.modules.activation, torch.nn.modules.transformer):
    module.MultiheadAttention = Ours
sys.argv = [sys.argv[1], "-v"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(quick: bool, fresh: bool) -> Any:
    """Run the cases in a process of their own, count, return."""
    del quick, fresh
    path = os.environ.get("QCLUSTER_TORCH_MHA_TESTS")
    if not path or not Path(path).is_file():
        print("\nPyTorch's own cases: not run, QCLUSTER_TORCH_MHA_TESTS names no file")
        return {"ran": 0, "reason": "QCLUSTER_TORCH_MHA_TESTS names no file"}
    done = subprocess.run(
        [sys.executable, "-c", _RUN, path], capture_output=True, text=True, timeout=600, check=False
    )
    text = done.stdout + done.stderr
    # Between a case's name and its result there may be its description, and warnings.
    cases = re.findall(
        r"^(test_\w+) \((?:(?!^test_).)*?(?:\.\.\. |^)(ok|FAIL|ERROR|skipped[^\n]*)$",
        text,
        re.MULTILINE | re.DOTALL,
    )
    counts = {
        state: sum(result.startswith(state) for _, result in cases)
        for state in ("ok", "FAIL", "ERROR", "skipped")
    }
    harness.table(
        "PyTorch's test_multihead_attention with our class", ["case", "result"],
        [[name, result[:60]] for name, result in cases],
    )  # fmt: skip
    if not cases:
        print(text[-2000:])
    return {"counts": counts, "cases": dict(cases)}
