"""Attention inside a block: a drop-in multi-head module, a cache, and a backend for each head.

One factory makes the module that holds the weights. Without a cache and with one backend the call
goes to that module as it is; decoding with a cache and hybrid layers project here and attend on the
projected heads, with the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from qcluster.errors import InputError

__all__ = ["EXACT_BACKENDS", "HeadAttention", "KeyValue", "make_attention", "reseed"]

EXACT_BACKENDS = ("classical", "exact")
"""Names under which a head is computed by ordinary dense attention."""


class KeyValue(NamedTuple):
    """Projected keys and values so far, each (batch, heads, positions, head width)."""

    key: Tensor
    value: Tensor


def make_attention(
    d_model: int,
    nhead: int,
    *,
    dropout: float,
    quantum_config: Mapping[str, Any] | None,
) -> nn.MultiheadAttention:
    """The module that holds a layer's attention weights; ``batch_first``."""
    if quantum_config is None:
        return nn.MultiheadAttention(d_model, nhead, dropout=dropout, batch_first=True)
    from qcluster.qtransformers import QuantumMultiheadAttention

    return cast(
        nn.MultiheadAttention,
        QuantumMultiheadAttention(
            d_model, nhead, dropout=dropout, batch_first=True, quantum_config=dict(quantum_config)
        ),
    )


class HeadAttention(nn.Module):
    """Self or cross attention of one block.

    Parameters
    ----------
    d_model, nhead, dropout: as in ``nn.MultiheadAttention``.
    quantum_config: passed to ``QuantumMultiheadAttention``; ``backend`` may be a list with one name
        a head (a hybrid layer: sampled heads beside exact ones).

    Raises InputError where the list of backends has not one name a head.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        *,
        dropout: float = 0.0,
        quantum_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.nhead, self.width, self.calls = nhead, d_model // nhead, 0
        backend = (quantum_config or {}).get("backend")
        self.groups = _groups(backend, nhead)
        config = dict(quantum_config) if quantum_config is not None else None
        if config is not None and self.groups is not None:
            sampled = [name for name in self.groups if name not in EXACT_BACKENDS]
            config["backend"] = sampled[0] if sampled else "classical"
        self.mha = make_attention(d_model, nhead, dropout=dropout, quantum_config=config)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        keep: Tensor | None = None,
        causal: bool = False,
        cache: KeyValue | None = None,
        want_cache: bool = False,
    ) -> tuple[Tensor, KeyValue | None]:
        """Attend from ``x`` (batch, n, d_model) to ``memory`` or to itself.

        ``keep`` (batch, keys) is True where a key may be seen; ``cache`` holds earlier keys and
        values, to which those of ``x`` are added (self attention) or which stand for the memory.
        """
        if cache is None and not want_cache and self.groups is None:
            return self._whole(x, x if memory is None else memory, keep, causal), None
        query, state = self._project(x, memory, cache)
        out = self._attend(query, state, keep, causal)
        joined = out.transpose(1, 2).flatten(2)
        return self.mha.out_proj(joined), state if want_cache else None

    def _whole(self, x: Tensor, memory: Tensor, keep: Tensor | None, causal: bool) -> Tensor:
        mask = _causal(x.shape[1], memory.shape[1], x.device) if causal else None
        out, _ = self.mha(
            x,
            memory,
            memory,
            key_padding_mask=None if keep is None else ~keep,
            attn_mask=mask,
            need_weights=False,
            is_causal=causal,
        )
        return cast(Tensor, out)

    def _project(
        self, x: Tensor, memory: Tensor | None, cache: KeyValue | None
    ) -> tuple[Tensor, KeyValue]:
        weights = self.mha.in_proj_weight.chunk(3)
        biases = self.mha.in_proj_bias.chunk(3)
        query = self._split(functional.linear(x, weights[0], biases[0]))
        if memory is not None and cache is not None:
            return query, cache
        source = x if memory is None else memory
        key = self._split(functional.linear(source, weights[1], biases[1]))
        value = self._split(functional.linear(source, weights[2], biases[2]))
        if cache is not None:
            key = torch.cat([cache.key, key], dim=2)
            value = torch.cat([cache.value, value], dim=2)
        return query, KeyValue(key, value)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.nhead, self.width).transpose(1, 2)

    def _attend(self, query: Tensor, state: KeyValue, keep: Tensor | None, causal: bool) -> Tensor:
        mask = None
        if causal and query.shape[2] > 1:
            mask = ~_causal(query.shape[2], state.key.shape[2], query.device)
        if keep is not None:
            seen = keep[:, None, None, :]
            mask = seen if mask is None else mask & seen
        groups = self.groups or {_backend(self.mha): list(range(self.nhead))}
        whole = len(groups) == 1
        parts, order = [], []
        for name, heads in groups.items():
            q, k, v = (x if whole else x[:, heads] for x in (query, *state))
            parts.append(self._attend_heads(name, q, k, v, mask))
            order += heads
        out = torch.cat(parts, dim=1)
        return out if order == sorted(order) else out[:, torch.tensor(order).argsort()]

    def _attend_heads(
        self, backend: str, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> Tensor:
        config = getattr(self.mha, "quantum_config", None)
        sampling = config is not None and (not self.training or config.sample_in_training)
        if backend in EXACT_BACKENDS or not sampling:
            rate = self.mha.dropout if self.training else 0.0
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate)
        from qcluster.qtransformers.backends import attend_heads

        self.calls += 1
        shape = (*q.shape[:3], k.shape[2])
        out, _, _ = attend_heads(
            q.flatten(0, 1),
            k.flatten(0, 1),
            v.flatten(0, 1),
            None if mask is None else _additive(mask, q.dtype).expand(shape).flatten(0, 1),
            self.width**-0.5,
            cast(Any, config).with_(backend=backend),
            call=self.calls,
        )
        return out.view(q.shape)


def reseed(model: nn.Module, seed: int) -> None:
    """Make the next sampled attention of every layer draw from ``seed`` and the layer's place.

    The same on every worker that is given the same seed, whatever it has drawn before.
    """
    for place, module in enumerate(model.modules()):
        if isinstance(module, HeadAttention):
            module.calls = (seed + place * 0x9E3779B97F4A7C15) % (1 << 52)
            recount = getattr(module.mha, "reseed", None)
            if callable(recount):
                recount(module.calls)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a key may be seen, minus infinity elsewhere."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, -torch.inf)


def _groups(backend: Any, nhead: int) -> dict[str, list[int]] | None:
    if backend is None or isinstance(backend, str):
        return None
    names = list(backend)
    if len(names) != nhead or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"a list of backends has one name a head: {nhead} wanted, {len(names)} came",
            field="quantum_config.backend",
        )
    groups: dict[str, list[int]] = {}
    for head, name in enumerate(names):
        groups.setdefault(name, []).append(head)
    return groups


def _backend(mha: nn.Module) -> str:
    config = getattr(mha, "quantum_config", None)
    return "classical" if config is None else str(config.backend)


def _causal(queries: int, keys: int, device: torch.device) -> Tensor:
    """True where a query must not look: queries are the last of the keys."""
    ones = torch.ones(queries, keys, dtype=torch.bool, device=device)
    return ones.triu(keys - queries + 1)
