"""Predicted against measured variance, and the samplers' errors at equal value rows."""

from __future__ import annotations

from typing import Any

import harness

from attention_parts import inputs
from qcluster.q_attention import attention
from qcluster.q_attention.estimate import predicted_variance, sampled
from qcluster.q_attention.problem import state
from qcluster.q_attention.variates import make_variate

BUDGETS = (16, 32, 64, 128)


def run(quick: bool, fresh: bool) -> Any:
    """Measure, print, return."""
    del fresh
    q, k, v = (x.flatten(0, 1) for x in inputs.shared())
    problem = state(q[:, ::16], k, v, scale=inputs.SCALE)
    exact = attention(q[:, ::16], k, v, budget=1.0, scale=inputs.SCALE).out
    rows = []
    for variate_name in ("none", "constant", "block", "lowbit"):
        variate = make_variate(problem.v, variate_name)
        for sampler in ("naive", "stratified", "varopt", "systematic", "hybrid"):
            for budget in BUDGETS:
                squares = relative = 0.0
                repeats = 10 if quick else 40
                import torch

                generator = torch.Generator().manual_seed(0)
                for _ in range(repeats):
                    out = sampled(problem, sampler, budget, variate, generator=generator).out
                    error = (out - exact).norm(dim=-1)
                    squares += error.square().mean().item() / repeats
                    relative += (error / exact.norm(dim=-1)).mean().item() / repeats
                predicted = predicted_variance(problem, sampler, budget, variate)
                rows.append({
                    "sampler": sampler, "control variate": variate_name, "rows": budget,
                    "relative error": relative,
                    "measured / predicted": None if predicted is None
                    else squares / predicted.mean().item(),
                })  # fmt: skip
    shown = [[r[c] if r[c] is not None else "-" for c in rows[0]] for r in rows]
    harness.table("Samplers at equal value rows, 512 tokens", list(rows[0]), shown)
    return rows
