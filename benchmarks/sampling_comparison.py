"""Sampling strategies on real and normal inputs: JSON, table, and a plot of error against bytes.

    python benchmarks/sampling_comparison.py [--quick]

Real inputs come from the folder that QCLUSTER_DATA names. The plot also has what a share of bytes
buys (``attention(..., budget=share)``), where scores are not free.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import harness
from attention_parts import inputs
from attention_parts.plot import scatter

from qcluster.q_attention import attention
from qcluster.q_attention.compare import compare, gaussian

SHARES = (0.03, 0.05, 0.08, 0.12, 0.16, 0.2, 0.28, 0.35, 0.5)


def main() -> None:
    chosen = harness.arguments(__doc__.splitlines()[0])
    q, k, v = (x.flatten(0, 1) for x in inputs.shared())
    q = q[:, :: 32 if chosen.quick else 8]
    cases: dict[str, tuple[Any, ...]] = {"real, 512 tokens": (q, k, v)}
    for deviation in (1.0, 3.0):
        cases[f"normal, logit sd {deviation:g}"] = gaussian(1024, deviation)
    found: list[dict[str, Any]] = []
    for name, qkv in cases.items():
        found += compare(name, *qkv, repeats=5 if chosen.quick else 30)
        columns = list(found[0])
        rows = [[r[c] if r[c] is not None else "-" for c in columns] for r in found
                if r["input"] == name]  # fmt: skip
        harness.table(name, columns, rows)
    series: dict[str, list[tuple[float, float]]] = {}
    for record in found:
        if record["input"] == "real, 512 tokens":
            point = record["share"], record["relative_error"]
            series.setdefault(record["strategy"], []).append(point)
    exact = attention(q, k, v, budget=1.0).out
    for share in SHARES:
        part = attention(q, k, v, budget=share)
        error = ((part.out - exact).norm(dim=-1) / exact.norm(dim=-1)).mean().item()
        series.setdefault("share of bytes", []).append((part.share, error))
    path = harness.HERE / "results" / "sampling_comparison.svg"
    path.parent.mkdir(exist_ok=True)
    path.write_text(scatter(series, "share of 16-bit bytes read", "mean relative error"))
    print(f"\nwrote {path.relative_to(harness.HERE.parent)}")
    harness.save("sampling_comparison", found, ("torch",))


if __name__ == "__main__":
    main()
