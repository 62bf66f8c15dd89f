"""Optimiser, learning-rate course, weight averaging and precision."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qcluster.qtransformers.checkpoint import like
from qcluster.qtransformers.train_config import TrainingConfig

__all__ = ["WeightAverage", "learning_rate", "make_optimizer", "precision_of"]


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser, with weight decay on tensors of two or more dimensions only."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    betas = (config.beta1, config.beta2)
    # One fused pass over the weights: the same kernel on CPU and CUDA.
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=_fusable(trained))


def _fusable(parameters: Iterable[Tensor]) -> bool:
    return all(p.is_floating_point() and p.device.type in {"cpu", "cuda"} for p in parameters)


def learning_rate(step: int, total: int, config: TrainingConfig) -> float:
    """The rate of optimiser step ``step`` (from 0) of ``total``."""
    peak = config.learning_rate
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return peak
    span = max(1, total - config.warmup_steps)
    done = min(1.0, (step - config.warmup_steps) / span)
    fall = done if config.schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * done)
    return peak * (1.0 - (1.0 - config.final_lr) * fall)


class WeightAverage:
    """Exponential moving average of the trained weights (Polyak and Juditsky 1992).

    The decay is lowered at the start, min(decay, (1 + t) / (10 + t)), so that the random start is
    forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.model = model
        self.shadow = {n: p.detach().clone() for n, p in _trained(model)}

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the model's present weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        live = [p.detach() for _, p in _trained(self.model)]
        torch._foreach_lerp_(list(self.shadow.values()), live, 1.0 - decay)

    @torch.no_grad()
    def restore(self, stored: Mapping[str, Tensor], updates: int) -> None:
        """Put back a stored average of ``updates`` updates."""
        self.updates = updates
        for name, value in self.shadow.items():
            value.copy_(like(value, stored[name]))

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's weights with the average; a second call puts them back."""
        for name, weight in _trained(self.model):
            held = weight.detach().clone()
            weight.copy_(self.shadow[name])
            self.shadow[name].copy_(held)


def _trained(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def precision_of(config: TrainingConfig, device: torch.device) -> tuple[torch.dtype | None, Any]:
    """The autocast dtype (None: none) and a gradient scaler, where float16 needs one."""
    wanted = config.mixed_precision
    if wanted == "no":
        return None, None
    if wanted == "auto":
        modern = device.type != "cuda" or torch.cuda.is_bf16_supported()
        wanted = "bf16" if modern else "fp16"
    if wanted == "bf16":
        return torch.bfloat16, None
    return torch.float16, torch.amp.GradScaler(device.type)
