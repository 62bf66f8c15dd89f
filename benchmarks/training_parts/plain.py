"""A plain PyTorch loop: the opponent that our loop must neither lag nor underperform.

Written as a user would write it: no checkpoints, no logs, batches at shuffled offsets. It starts
from the same weights and sees the same windows in the same order, so that a difference between the
loops is one of what they do.
"""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from torch import Tensor, nn

from qcluster.qtransformers import zoo
from qcluster.qtransformers.model import ScalableQuantumTransformer


def make_model(seed: int, **fields: object) -> ScalableQuantumTransformer:
    """The same small byte-level decoder for both loops."""
    torch.manual_seed(seed)
    base = {"d_model": 96, "nhead": 4, "num_decoder_layers": 3, "max_length": 72, "dropout": 0.0}
    return zoo.gpt("nano", vocab_size=128, **{**base, **fields})


class PlainLoop:
    """AdamW, cosine rate with warm-up, clipping: the recipe of the configuration below."""

    def __init__(self, model: nn.Module, text: Tensor, recipe: dict[str, float], seed: int) -> None:
        self.model, self.text, self.recipe = model, text, recipe
        matrices = [p for p in model.parameters() if p.dim() >= 2]
        others = [p for p in model.parameters() if p.dim() < 2]
        groups = [
            {"params": matrices, "weight_decay": recipe["weight_decay"]},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=recipe["learning_rate"], betas=(0.9, 0.95), fused=True
        )
        windows = len(text) - int(recipe["length"])
        self.order = np.random.default_rng([seed, 0]).permutation(windows)
        self.step = 0

    def rate(self) -> float:
        peak, warm, total = (self.recipe[k] for k in ("learning_rate", "warmup_steps", "max_steps"))
        if self.step < warm:
            return peak * (self.step + 1) / warm
        done = min(1.0, (self.step - warm) / max(1, total - warm))
        return peak * (1 - 0.9 * (0.5 - 0.5 * math.cos(math.pi * done)))

    def train_step(self) -> float:
        length, batch = int(self.recipe["length"]), int(self.recipe["batch_size"])
        starts = self.order[self.step * batch : (self.step + 1) * batch]
        ids = torch.stack([self.text[s : s + length + 1] for s in starts.tolist()]).long()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        loss = self.model(input_ids=ids, labels=ids).loss
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item()

    def run(self) -> float:
        """Train to the end; CPU seconds."""
        start = time.process_time()
        self.model.train()
        while self.step < self.recipe["max_steps"]:
            self.train_step()
        return time.process_time() - start


@torch.no_grad()
def bits_per_character(model: nn.Module, text: Tensor, length: int) -> float:
    """Windows of ``length`` over the whole text, none overlapping: the same measure for both."""
    model.eval()
    count = (len(text) - 1) // length
    total, seen = 0.0, 0
    for start in range(0, count, 64):
        rows = [
            text[i * length : i * length + length + 1] for i in range(start, min(start + 64, count))
        ]
        ids = torch.stack(rows).long()
        total += model(input_ids=ids, labels=ids).loss.item() * len(rows) * length
        seen += len(rows) * length
    return total / seen / math.log(2)
