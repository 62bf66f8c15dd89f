"""``attn_implementation="qcluster"`` for Hugging Face models, after one call of ``register_hf()``.

Exact by default: then it is torch's own kernel wherever that can do what the model asks for, and
plain arithmetic where not (soft caps, sinks, weights out). With a configuration, evaluation attends
by sampler and budget; training stays exact unless the configuration says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qcluster.errors import InputError, MissingDependency
from qcluster.q_attention.module_config import QuantumConfig

if TYPE_CHECKING:
    import torch

__all__ = ["register_hf"]


def register_hf(
    name: str = "qcluster",
    quantum_config: QuantumConfig | Mapping[str, Any] | None = None,
    *,
    min_keys: int = 1,
) -> str:
    """Make ``attn_implementation=name`` known to transformers; returns the name.

    Parameters
    ----------
    quantum_config: how evaluation attends; None is exact. Samplers and budgets only: simulated or
        real quantum backends are for ``QuantumMultiheadAttention``.
    min_keys: calls with fewer keys than this are exact.

    Generation at length saves time with ``past_key_values=TwoLevelCache()`` (see ``hf_cache``).
    Registering a name again replaces it. Raises MissingDependency without transformers, InputError
    for a configuration that makes no sense here.
    """
    try:
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask
    except ImportError:
        raise MissingDependency(
            "transformers", needed_for="attn_implementation", extra="hf"
        ) from None
    config = QuantumConfig.read(quantum_config)
    if config.backend in ("simulation", "hardware"):
        raise InputError(f"'{config.backend}' is not for whole models", field="config.backend")
    if isinstance(min_keys, bool) or min_keys < 1:
        raise InputError(f"wants at least 1, got {min_keys}", field="min_keys")
    AttentionInterface.register(name, _forward(config, min_keys))
    AttentionMaskInterface.register(name, sdpa_mask)
    return name


def _forward(config: QuantumConfig, min_keys: int) -> Any:
    def forward(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        is_causal: bool | None = None,
        position_bias: torch.Tensor | None = None,
        softcap: float | None = None,
        s_aux: torch.Tensor | None = None,
        **options: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Queries (batch, heads, L, dim), keys and values of perhaps fewer heads; output
        (batch, L, heads, dim) and weights or None.
        """
        if options.get("cache") is not None:
            raise InputError("paged caches are not supported", field="cache")
        if is_causal is None:
            is_causal = bool(getattr(module, "is_causal", False))
        causal = is_causal and attention_mask is None and query.shape[2] > 1
        mask = _with_bias(attention_mask, position_bias, query)
        sampling = config.backend != "classical" and key.shape[2] >= min_keys
        sampling = sampling and (not module.training or config.sample_in_training)
        special = softcap is not None or s_aux is not None
        if not (special or sampling or module.training or mask is not None):
            found = _from_long_cache(query, key, scaling, options)
            if found is not None:
                return found.transpose(1, 2).contiguous(), None
        wanted = bool(options.get("output_attentions", False))
        if sampling and not special:
            out = _sampled(query, key, value, mask, scaling, causal, config)
            return out.transpose(1, 2).contiguous(), None
        if special or wanted:
            out, weights = _plain(query, key, value, mask, scaling, causal, dropout, softcap, s_aux)
            return out.transpose(1, 2).contiguous(), weights
        from torch.nn import functional

        if key.shape[1] != query.shape[1]:
            key, value = _repeat(key, query), _repeat(value, query)
        out = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling, is_causal=causal
        )
        return out.transpose(1, 2).contiguous(), None

    return forward


def _from_long_cache(
    query: torch.Tensor, key: torch.Tensor, scaling: float | None, options: Mapping[str, Any]
) -> torch.Tensor | None:
    """A decoding step over a ``TwoLevelCache``'s keys, (batch, heads, 1, dim); None for others."""
    if options.get("output_attentions") or query.requires_grad:
        return None
    window = options.get("sliding_window")
    if window is not None and window < key.shape[2]:
        return None
    from qcluster.q_attention.hf_cache import held_behind

    held = held_behind(key)
    if held is None:
        return None
    if query.shape[2] > 1:
        held.observe(query)
        return None
    return held.attend(query, scale=scaling)


def _repeat(x: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    return x.repeat_interleave(query.shape[1] // x.shape[1], dim=1)


def _with_bias(
    mask: torch.Tensor | None, bias: torch.Tensor | None, query: torch.Tensor
) -> torch.Tensor | None:
    """One mask: bool with True for what takes part, or float to be added."""
    import torch

    if bias is None:
        return mask
    if mask is None:
        return bias.to(query.dtype)
    if mask.dtype == torch.bool:
        # As transformers does: the lowest finite number, so that a row without keys is no NaN.
        return bias.to(query.dtype).masked_fill(~mask, torch.finfo(query.dtype).min)
    return (bias + mask).to(query.dtype)


def _sampled(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    causal: bool,
    config: QuantumConfig,
) -> torch.Tensor:
    from qcluster.q_attention.functional import attention

    if mask is not None:
        mask = mask[..., : key.shape[2]]
    out: torch.Tensor = attention(
        query,
        key,
        value,
        sampler=config.backend,
        budget=config.budget if config.budget is not None else config.num_samples,
        certificate=False,
        eps=config.eps,
        delta=config.delta,
        mask=mask,
        is_causal=causal,
        scale=scaling,
        control_variate=config.control_variate,
        criterion=config.criterion,
        generator=config.seed,
    ).out
    return out


def _plain(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    causal: bool,
    dropout: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention with a soft cap on scores (Gemma 2) and one sink logit a head (GPT-OSS)."""
    import torch
    from torch.nn import functional

    if key.shape[1] != query.shape[1]:
        key, value = _repeat(key, query), _repeat(value, query)
    scale = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    scores = query @ key.transpose(2, 3) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    lowest = torch.finfo(scores.dtype).min
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, lowest)
    if mask is not None:
        mask = mask[..., : scores.shape[-1]]
        forbids = mask.dtype == torch.bool
        scores = scores.masked_fill(~mask, lowest) if forbids else scores + mask
    if sinks is not None:
        column = sinks.reshape(1, -1, 1, 1).to(scores.dtype)
        scores = torch.cat([scores, column.expand(*scores.shape[:3], 1)], -1)
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    if sinks is not None:
        weights = weights[..., :-1]
    weights = functional.dropout(weights, dropout)
    return weights @ value, weights
