"""A genuine router trace from a small model: trained here, on text that every machine has.

    python benchmarks/routing_trace.py trace.npz [--minutes 5] [--tokens 4096] [--seed 0]

A byte-level transformer with a mixture of experts in each of its 4 layers (32 experts, top 2,
balanced without a loss by Wang et al.'s bias, 2024) learns the sources of Python's standard
library on the CPU. Files that it never saw are then routed, and every token's picks, gate weights,
full gate logits and hidden states are recorded. ``qcluster place --trace`` and ``place_experts``
take the file.
"""

from __future__ import annotations

import argparse
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from qcluster.q_routing import Recorder, Trace, replay, simulate

LAYERS, WIDTH, HEADS, EXPERTS, TOP, CONTEXT = 4, 96, 4, 32, 2, 128
BATCH, BIAS_STEP = 8, 0.005


class Experts(nn.Module):
    """``TOP`` of ``EXPERTS`` small networks for each token, by sigmoid gates and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.into = nn.Parameter(torch.randn(EXPERTS, WIDTH, 2 * WIDTH) / WIDTH**0.5)
        self.back = nn.Parameter(torch.randn(EXPERTS, 2 * WIDTH, WIDTH) / (2 * WIDTH) ** 0.5)
        self.register_buffer("bias", torch.zeros(EXPERTS))
        self.seen: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, WIDTH)
        logits = self.gate(flat)
        picks = (torch.sigmoid(logits) + self.bias).topk(TOP, dim=1).indices
        weight = torch.sigmoid(logits).gather(1, picks)
        weight = weight / weight.sum(dim=1, keepdim=True)
        expert, order = picks.reshape(-1).sort(stable=True)
        count = torch.bincount(expert, minlength=EXPERTS)
        rows = flat[order // TOP].split(count.tolist())
        served = [
            functional.gelu(r @ self.into[e]) @ self.back[e] for e, r in enumerate(rows) if len(r)
        ]
        scaled = torch.cat(served) * weight.reshape(-1)[order, None]
        if self.training:
            self.bias += BIAS_STEP * torch.sign(count.float().mean() - count)
        else:
            self.seen = (logits, flat, picks)
        return torch.zeros_like(flat).index_add(0, order // TOP, scaled).view_as(x)


class Layer(nn.Module):
    """Causal attention, then experts."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.experts = Experts()

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        parts = self.qkv(self.norms[0](x)).view(batch, length, 3, HEADS, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
        return x + self.experts(self.norms[1](x))


class Model(nn.Module):
    """Bytes in, logits of the next byte out."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(256, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, 256)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token(ids) + self.place(torch.arange(ids.shape[1]))
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def texts() -> tuple[np.ndarray, list[np.ndarray]]:
    """Bytes to learn from, and those of every tenth file, kept apart."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    read = [np.frombuffer(file.read_bytes(), np.uint8).astype(np.int64) for file in files]
    return np.concatenate([t for i, t in enumerate(read) if i % 10]), read[::10]


def train(model: Model, text: np.ndarray, seconds: float, rng: np.random.Generator) -> float:
    """Learn for so long; the last loss in bits a byte."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    began, bits, step = time.monotonic(), 8.0, 0
    while (now := time.monotonic() - began) < seconds:
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - 0.9 * now / seconds)
        at = rng.integers(len(text) - CONTEXT - 1, size=BATCH)
        rows = torch.as_tensor(np.stack([text[a : a + CONTEXT + 1] for a in at]))
        loss = functional.cross_entropy(model(rows[:, :-1]).transpose(1, 2), rows[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        bits = 0.98 * bits + 0.02 * loss.item() / np.log(2)
        step += 1
        if step % 200 == 0:
            print(f"{now:5.0f} s, step {step}: {bits:.2f} bits a byte", file=sys.stderr)
    return bits


@torch.no_grad()
def record(model: Model, files: list[np.ndarray], tokens: int) -> Trace:
    """Route files that were not learnt from, a context at a time, each file an equal part."""
    model.eval()
    recorder = Recorder(LAYERS, EXPERTS, TOP, limit=10 * tokens, logits=True, hidden=True)
    files = [text for text in files if len(text) >= CONTEXT]
    share = -(-tokens // (CONTEXT * len(files)))
    lengths: list[int] = []
    for text in files:
        parts = min(share, len(text) // CONTEXT)
        for part in text[: parts * CONTEXT].reshape(parts, CONTEXT):
            model(torch.as_tensor(part)[None])
            for x, layer in enumerate(model.layers):
                logits, hidden, picks = (t.numpy() for t in layer.experts.seen)
                recorder.add(x, logits, hidden, picks)
        lengths.append(parts * CONTEXT)
    found = recorder.trace()
    score = 1 / (1 + np.exp(-np.take_along_axis(found.logits, found.expert_ids, axis=2)))
    weight = score / score.sum(axis=2, keepdims=True)
    return Trace(found.expert_ids, EXPERTS, weight, found.logits, found.hidden, np.array(lengths))


def report(trace: Trace) -> dict[str, Any]:
    """How even the loads are, and what live planning would make of them."""
    load = trace.load
    windows = replay(trace, window=max(1, len(trace) // 8))
    found = simulate(windows, num_slots=48, num_gpus=8, cover=True)
    return {
        "tokens": len(trace),
        "busiest expert of mean": round(float((load.max(axis=1) / load.mean(axis=1)).mean()), 2),
        "experts never picked": int((load == 0).sum()),
        "next window, 48 slots on 8 GPUs, equal split": round(float(found.equal.mean()), 3),
        "weighted": round(float(found.weighted.mean()), 3),
        "GPUs a token of 2 picks": round(float(found.fan_out.mean()), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.manual_seed(chosen.seed)
    learn, apart = texts()
    model = Model()
    bits = train(model, learn, 60 * chosen.minutes, np.random.default_rng(chosen.seed))
    trace = record(model, apart, chosen.tokens)
    trace.write(chosen.output)
    print(f"wrote {chosen.output}; {bits:.2f} bits a byte")
    for name, value in report(trace).items():
        print(f"  {name}: {value}")


if __name__ == "__main__":
    main()
