"""Masked language modelling: which tokens are hidden, and what stands in their place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qcluster.qtransformers.architecture import TransformerConfig
from qcluster.qtransformers.data import Batch, Collate, join
from qcluster.qtransformers.model import IGNORE

__all__ = ["hide", "mask_tokens"]


def mask_tokens(config: TransformerConfig, share: float = 0.15) -> Collate:
    """A collate function that pads samples and hides ``share`` of their tokens.

    Draws come from torch's global generator, which the loop seeds at each step.
    """

    def collate(items: list[Any]) -> Batch:
        batch = join(items)
        ids, labels = hide(batch["input_ids"], config, share, batch.get("attention_mask"))
        return {**batch, "input_ids": ids, "labels": labels}

    return collate


def hide(
    ids: Tensor, config: TransformerConfig, share: float = 0.15, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Hide tokens of ``ids`` (batch, n): of those chosen 80 % become the mask token, 10 % a random
    token, 10 % stay (Devlin et al. 2019). Returns new ids, and labels that count only those chosen.

    At least one token is chosen, so that the loss is never of nothing.
    """
    chosen = torch.rand(ids.shape) < share
    if mask is not None:
        chosen &= mask.bool()
    if not chosen.any():
        chosen[0, 0] = True
    fate = torch.rand(ids.shape)
    random_ids = torch.randint(config.vocab_size, ids.shape)
    token = config.vocab_size - 1 if config.mask_token_id is None else config.mask_token_id
    out = torch.where(chosen & (fate < 0.8), token, ids)
    out = torch.where(chosen & (fate >= 0.9), random_ids, out)
    return out, ids.masked_fill(~chosen, IGNORE)
