"""How often the bounds hold, how wide they are, and what is read for them."""

from __future__ import annotations

from typing import Any

import harness
import torch

from attention_parts import inputs
from qcluster.q_attention import attention

DELTAS = (0.1, 0.01)


def _measure(name: str, qkv: tuple[torch.Tensor, ...], share: float, seeds: int) -> dict[str, Any]:
    """q, k, v (layers, heads, n, 32); coverage by layer over heads, rows and draws."""
    q, k, v = qkv
    q = q[:, :, :: max(1, q.shape[2] // 128)]
    exact = attention(q, k, v, budget=1.0, scale=inputs.SCALE).out
    length = exact.norm(dim=-1)
    row: dict[str, Any] = {"input": name, "share": share}
    for delta in DELTAS:
        held, widths, errors, read = [], [], [], []
        for seed in range(seeds):
            found = attention(q, k, v, budget=share, certificate=True, delta=delta,
                              scale=inputs.SCALE, generator=seed)  # fmt: skip
            error = (found.out - exact).norm(dim=-1)
            held.append((error <= found.bound).double().mean((1, 2)))
            widths.append((found.bound / length).median().item())
            errors.append((error / length).median().item())
            read.append(found.share)
        row |= {
            f"least coverage of a layer, delta {delta:g}": torch.stack(held).mean(0).min().item(),
            f"median bound, delta {delta:g}": sum(widths) / seeds,
            "median error": sum(errors) / seeds,
            "read": max(read),
            "exact rows": found.exact_rows,
        }
    return row


def run(quick: bool, fresh: bool) -> Any:
    """Measure, print, return."""
    del fresh  # nothing here takes long enough to be kept
    sets = {"512 tokens, 2 heads a layer": inputs.shared()}
    if not quick:
        for n, start in ((512, 200_000), (2048, 60_000), (2048, 400_000)):
            found = inputs.captured(n, start)
            if found is not None:
                heads = [0, 3, 7, 11]
                sets[f"{n} tokens from {start}, heads {heads}"] = tuple(x[:, heads] for x in found)
    rows = [
        _measure(name, qkv, share, 2 if quick else 5)
        for name, qkv in sets.items()
        for share in (0.28, 0.3)
    ]
    columns = list(rows[0])
    harness.table("Bounds on real inputs", columns, [[row[c] for c in columns] for row in rows])
    return rows
