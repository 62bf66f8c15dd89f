"""The toggles beside what they compete with: pages, kernels, channels."""

from __future__ import annotations

import time
from typing import Any

import harness
import numpy as np
import torch

from attention_parts import inputs
from qcluster.q_attention import QAOASparseAttention, attention
from qcluster.q_attention.fidelity import kernel_attention
from qcluster.q_attention.problem import state
from qcluster.q_attention.qaoa_pages import brute_force, choose_pages


def _pages(count: int) -> dict[str, Any]:
    ratios: dict[str, list[float]] = {"QAOA": [], "greedy": [], "sort": [], "random best": []}
    spent = []
    for seed in range(count):
        g = np.random.default_rng(seed)
        s = g.exponential(size=16)
        a = g.normal(size=(16, 6))
        a /= np.linalg.norm(a, axis=1, keepdims=True)
        r = np.clip(a @ a.T, 0, None)
        for keep in (4, 8):
            begun = time.process_time()
            choice = choose_pages(s, r, keep, seed=seed)
            spent.append(time.process_time() - begun)
            best = brute_force(s, r, keep)
            pairs = np.triu(r, 1)
            draws = (g.permutation(16)[:keep] for _ in range(2048))
            drawn = max(float(s[c].sum() - pairs[np.ix_(c, c)].sum()) for c in draws)
            for name, value in (
                ("QAOA", choice.value), ("random best", drawn), *choice.baselines.items(),
            ):  # fmt: skip
                ratios[name].append(value / best)
    return {name: {"least": min(v), "mean": float(np.mean(v))} for name, v in ratios.items()} | {
        "QAOA seconds": float(np.median(spent))
    }


def run(quick: bool, fresh: bool) -> Any:
    """Measure, print, return."""
    del fresh
    pages = _pages(5 if quick else 12)
    rows = [[n, v["least"], v["mean"]] for n, v in pages.items() if isinstance(v, dict)]
    harness.table(
        f"16 pages, 4 or 8 kept: ratio to brute force (QAOA {pages['QAOA seconds']:.2g} s CPU; "
        "random best: 2,048 uniform choices)", ["method", "least", "mean"], rows,
    )  # fmt: skip
    q, k, v = (x.flatten(0, 1) for x in inputs.shared())
    q = q[:, ::16]
    exact = attention(q, k, v, budget=1.0).out
    mask = torch.from_numpy(QAOASparseAttention(16, 4).mask(q, k))
    problem = state(q, k, v, scale=inputs.SCALE)
    found = {
        "QAOA, 4 of 16 pages": attention(q, k, v, budget=1.0, mask=mask).out,
        "share of .25 of the bytes": attention(q, k, v, budget=0.25).out,
        "kernel, 8 qubits": kernel_attention(problem)[0],
        "its Gaussian twin": kernel_attention(problem, twin=True)[0],
    }
    errors = {
        name: ((out - exact).norm(dim=-1) / exact.norm(dim=-1)).mean().item()
        for name, out in found.items()
    }
    harness.table("Relative error to softmax attention, real inputs, 512 tokens",
                  ["method", "error"], list(errors.items()))  # fmt: skip
    return {"pages": pages, "errors": errors}
