"""Text out of a model, token by token, with keys and values kept between steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qcluster.errors import InputError

if TYPE_CHECKING:
    from qcluster.qtransformers.model import Cache, ScalableQuantumTransformer

__all__ = ["generate", "pick"]


@torch.no_grad()
def generate(
    model: ScalableQuantumTransformer,
    input_ids: Tensor,
    *,
    max_new_tokens: int = 32,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    attention_mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    use_cache: bool = True,
) -> Tensor:
    """Continue ``input_ids`` (batch, n) by up to ``max_new_tokens``.

    A decoder returns (batch, n + new), prompt first; prompts of unequal length are padded on the
    left with ``attention_mask`` 0 there. An encoder-decoder returns (batch, 1 + new), its start
    token first. ``temperature`` 0 takes the likeliest token; otherwise tokens are drawn from the
    ``top_k`` likeliest, or the fewest whose probability reaches ``top_p`` (Holtzman et al. 2020),
    by ``generator``. A row that has produced ``eos_token_id`` is filled up with it.

    Raises InputError for a model that has no decoder or no token logits, wrong options, or a result
    that would be longer than the model's ``max_length``.
    """
    _check(model, input_ids, max_new_tokens, temperature, top_k, top_p, attention_mask)
    training = model.training
    model.eval()
    try:
        return _decode(
            model, input_ids, max_new_tokens, temperature, top_k, top_p, attention_mask, generator,
            use_cache,
        )  # fmt: skip
    finally:
        model.train(training)


def _decode(
    model: ScalableQuantumTransformer,
    ids: Tensor,
    new: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    mask: Tensor | None,
    generator: torch.Generator | None,
    use_cache: bool,
) -> Tensor:
    both = model.config.kind == "encoder-decoder"
    keep = None if mask is None else mask.bool()
    memory = model.encode(ids, keep) if both else None
    out = ids.new_full((len(ids), 1), model.config.start_token_id) if both else ids
    cache: Cache | None = None
    ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    eos = model.config.eos_token_id
    for _ in range(new):
        fed = out[:, -1:] if cache is not None else out
        if both:
            result = model(
                ids, mask, decoder_input_ids=fed, memory=memory, cache=cache, use_cache=use_cache
            )
        else:
            result = model(fed, mask, cache=cache, use_cache=use_cache)
        cache = result.cache
        token = pick(result.logits[:, -1], temperature, top_k, top_p, generator)
        if eos is not None:
            token = torch.where(ended, eos, token)
            ended |= token == eos
        out = torch.cat([out, token[:, None]], dim=1)
        if mask is not None and not both:
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        if bool(ended.all()):
            break
    return out


def pick(
    logits: Tensor,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One token a row of ``logits`` (batch, vocabulary), int64 (batch,)."""
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.float() / temperature
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p is not None:
        ordered, order = logits.softmax(-1).sort(descending=True)
        dropped = ordered.cumsum(-1) - ordered >= top_p
        logits = logits.masked_fill(
            torch.zeros_like(dropped).scatter(1, order, dropped), -torch.inf
        )
    return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)


def _check(
    model: ScalableQuantumTransformer,
    ids: Tensor,
    new: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    mask: Tensor | None,
) -> None:
    kind = model.config.kind
    if kind == "encoder" or model.config.head != "lm":
        raise InputError("generation needs a decoder with token logits", field="model")
    if new < 0:
        raise InputError(f"wanted 0 or more, came {new}", field="max_new_tokens")
    if not temperature >= 0 or temperature == float("inf"):
        raise InputError(
            f"wanted a finite number from 0 up, came {temperature}", field="temperature"
        )
    if top_k is not None and top_k < 1:
        raise InputError(f"wanted 1 or more, came {top_k}", field="top_k")
    if top_p is not None and not 0 < top_p <= 1:
        raise InputError(f"wanted a number in (0, 1], came {top_p}", field="top_p")
    length = 1 + new if kind == "encoder-decoder" else ids.shape[-1] + new
    if length > model.config.max_length:
        raise InputError(
            f"{length} tokens are more than max_length {model.config.max_length}",
            field="max_new_tokens",
        )
    if mask is not None and kind == "decoder" and not bool(mask[:, -1].all()):
        raise InputError("prompts are padded on the left, not on the right", field="attention_mask")
