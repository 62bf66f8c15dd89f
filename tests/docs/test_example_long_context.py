"""``examples/long_context.py`` runs, and no part of it is better switched off."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = {"sampled attention", "expert placement", "fabric plan", "power caps", "all off"}


def test_every_part_pays_and_the_budget_holds() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "long_context.py", "--quick"],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    found = re.findall(r"^(\w+ \w+) .*?([\d.]+) ms ([\d.]+)x$", done.stdout, re.MULTILINE)
    assert {name for name, _, _ in found} == PARTS
    assert all(float(ratio) >= 1.0 for _, _, ratio in found)
    ((drawn, budget),) = re.findall(r"at most ([\d.]+) kW .* budget ([\d.]+) kW", done.stdout)
    assert float(drawn) <= float(budget)
