"""Error for the bytes that a query reads, ours against every opponent."""

from __future__ import annotations

from typing import Any

import harness
import torch

from attention_parts import inputs
from attention_parts.opponents import OPPONENTS, oracle
from qcluster.q_attention import attention

SHARES = (0.03, 0.05, 0.08, 0.12, 0.16, 0.2, 0.25, 0.28, 0.35, 0.5)
VERSION = 4


def mean_error(found: torch.Tensor | None, exact: torch.Tensor) -> float | None:
    """Mean over rows of the L2 error over the row's length."""
    if found is None or not bool(torch.isfinite(found).all()):
        return None
    return float(((found - exact).norm(dim=-1) / exact.norm(dim=-1)).mean())


def gaussian(n: int, sd: float) -> tuple[torch.Tensor, ...]:
    """Independent normal queries, keys and values whose scores have this deviation."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(4, n, 32, generator=generator) for _ in range(3))
    return q * sd, k, v


def cases(quick: bool) -> dict[str, tuple[torch.Tensor, ...]]:
    """Name to q (heads, rows, 32), k, v (heads, n, 32)."""
    found = {"real 512": tuple(x.flatten(0, 1) for x in inputs.shared())}
    long = None if quick else inputs.captured(2048)
    if long is not None:
        found["real 2048"] = tuple(x[:, [0, 5, 9]].flatten(0, 1) for x in long)
    for sd in (1.0, 3.0):
        found[f"Gaussian 1024, logit sd {sd:g}"] = gaussian(1024, sd)
    return {name: (q[:, :: max(1, q.shape[1] // 64)], k, v) for name, (q, k, v) in found.items()}


def _case(name: str, qkv: tuple[torch.Tensor, ...], fresh: bool) -> list[dict[str, Any]]:
    q, k, v = qkv
    exact = attention(q, k, v, budget=1.0, scale=inputs.SCALE).out
    rows = []
    for share in SHARES:
        ours = attention(q, k, v, budget=share, scale=inputs.SCALE)
        row: dict[str, Any] = {"share": share, "ours": mean_error(ours.out, exact)}
        row["ours read"] = ours.share

        def theirs(share: float = share) -> dict[str, float | None]:
            best: dict[str, float | None] = {}
            for opponent, variants in OPPONENTS.items():
                errors = [mean_error(f(q, k, v, inputs.SCALE, share), exact) for f in variants]
                best[opponent] = min((e for e in errors if e is not None), default=None)
            naive = attention(q, k, v, budget=share, scale=inputs.SCALE, sampler="naive")
            best["naive"] = mean_error(naive.out, exact)
            best["oracle"] = mean_error(oracle(q, k, v, inputs.SCALE, share), exact)
            return best

        key = [name, share, VERSION, float(k.sum()), float(q.sum())]
        row |= harness.cached("attention", key, theirs, fresh=fresh)
        rows.append(row)
    return rows


def run(quick: bool, fresh: bool) -> Any:
    """Measure, print, return."""
    results = {}
    names = [*OPPONENTS, "naive"]
    for name, qkv in cases(quick).items():
        rows = _case(name, qkv, fresh)
        results[name] = rows
        shown = []
        for row in rows:
            best = min(e for e in (row[o] for o in names) if e is not None)
            shown.append([
                row["share"], round(row["ours read"], 4), row["ours"],
                *(row[o] if row[o] is not None else "-" for o in names), row["oracle"],
                f"{best / row['ours']:.1f}x", f"{row['oracle'] / row['ours']:.1f}x",
            ])  # fmt: skip
        columns = ["share", "read", "ours", *names, "oracle top-k", "best/ours", "oracle/ours"]
        harness.table(f"Mean relative error, {name}", columns, shown)
    return results
