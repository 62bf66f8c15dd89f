"""Tokens a second of a Hugging Face model that generates over a long cache, alternated.

GPT-2's architecture, 4 layers of 8 heads of 64, float32, one CPU thread. Its caches are filled with
the generator's keys and values (fitted to real ones) and its queries are the generator's, so that
attention is like a trained model's; the rest of the weights is random. Three ways: transformers'
own cache with SDPA, our cache with SDPA (what not copying is worth), our cache with our attention.
"""

from __future__ import annotations

import copy
import statistics
import time
from typing import Any

import harness
import torch

from attention_parts import generator
from qcluster.q_attention import TwoLevelCache, register_hf

LAYERS, WIDTH, HEADS = 4, 512, 8


def _model(asks: list[torch.Tensor]) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, vocab_size=5000, n_positions=40_000)
    ).eval()
    for block, ask in zip(model.transformer.h, asks, strict=True):
        block.attn.c_attn.weight.data[:, :WIDTH] = 0
        block.attn.c_attn.bias.data[:WIDTH] = ask.flatten()
    return model


def run(quick: bool, fresh: bool) -> Any:
    """Measure, print, return."""
    del fresh
    from transformers import DynamicCache

    torch.set_num_threads(1)
    register_hf()
    rows = []
    for n in (512, 16384) if quick else (512, 1024, 4096, 16384):
        drawn = [generator.make(n, HEADS, seed=layer) for layer in range(LAYERS)]
        base = _model([q for q, *_ in drawn])
        ways: dict[str, tuple[Any, Any]] = {}
        for name, implementation, cache in (
            ("sdpa, its cache", "sdpa", DynamicCache()),
            ("sdpa, our cache", "sdpa", TwoLevelCache()),
            ("ours", "qcluster", TwoLevelCache()),
        ):
            model = copy.deepcopy(base)
            model.set_attn_implementation(implementation)
            for layer, (_, k, v, _) in enumerate(drawn):
                cache.update(k, v, layer)
            ways[name] = (model, cache)
        times: dict[str, list[float]] = {name: [] for name in ways}
        logits: dict[str, torch.Tensor] = {}
        for step in range(22 if n > 4096 else 60):
            for name, (model, cache) in ways.items():
                begun = time.process_time_ns()
                with torch.no_grad():
                    found = model(torch.tensor([[step % 5000]]), past_key_values=cache)
                if step > 1:  # the first step clusters the prompt's keys
                    times[name].append((time.process_time_ns() - begun) / 1e6)
                elif step == 0 and name == "ours":
                    first = (time.process_time_ns() - begun) / 1e6
                logits[name] = found.logits[0, -1]
        ms = {name: statistics.median(t) for name, t in times.items()}
        exact = logits["sdpa, its cache"]
        rows.append({
            "keys": n, **{f"{name}: tokens/s": 1e3 / t for name, t in ms.items()},
            "ours over sdpa": ms["sdpa, its cache"] / ms["ours"],
            "ours over sdpa, our cache": ms["sdpa, our cache"] / ms["ours"],
            "ms of the first step": first,
            "error of logits": float((logits["ours"] - exact).norm() / exact.norm()),
        })  # fmt: skip
    harness.table(
        "Generation over a long cache (CPU time, medians of alternated steps)",
        list(rows[0]), [list(row.values()) for row in rows],
    )  # fmt: skip
    return rows
