"""Exact attention, with rows that may see nothing: they give zeros, in value and in gradient."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["exact", "safe_softmax", "scores_of"]


def safe_softmax(scores: torch.Tensor) -> torch.Tensor:
    """Softmax over the last axis; all zeros, and zero gradient, where every score is -inf.

    A plain softmax gives NaN there, and replacing NaN afterwards leaves NaN in the gradient.
    """
    dead = (scores == -math.inf).all(dim=-1, keepdim=True)
    live = scores.masked_fill(dead, 0.0).softmax(dim=-1)
    return live.masked_fill(dead, 0.0)


def scores_of(
    q: torch.Tensor, k: torch.Tensor, bias: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """Scaled scores (groups, rows, n) with the bias added."""
    scores = (q * scale) @ k.transpose(-1, -2)
    return scores if bias is None else scores + bias


def exact(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (groups, rows, dv) and weights (groups, rows, n)."""
    weights = safe_softmax(scores_of(q, k, bias, scale))
    return weights @ v, weights
