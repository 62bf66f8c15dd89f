"""``QuantumMultiheadAttention``: ``torch.nn.MultiheadAttention`` with samplers behind it.

Without a ``quantum_config``, or in training unless told otherwise, it is torch's own module: same
parameters, same results, same messages. What differs: a row whose keys are all masked gives zeros
(before the output projection) instead of NaN, in value and in gradient, in every mode.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it
from torch.nn.utils.rnn import pad_sequence

from qcluster.q_attention.exact import safe_softmax, scores_of
from qcluster.q_attention.module_config import QuantumConfig
from qcluster.qtransformers.backends import attend_heads

__all__ = ["QuantumMultiheadAttention"]


def _stay_visible(module: nn.Module, inputs: Any, output: Any) -> None:
    """Keeps ``nn.TransformerEncoder`` from its fused path, which would never call our forward."""


class QuantumMultiheadAttention(nn.MultiheadAttention):
    """Multi-head attention whose weighted sum may be sampled, simulated, or exact.

    Parameters
    ----------
    The first eleven are those of ``torch.nn.MultiheadAttention``.
    quantum_config: ``backend`` (a sampler's name, ``classical``, ``simulation`` or ``hardware``),
        ``num_samples`` or ``budget``, ``error_mitigation``, ...: see ``QuantumConfig``. None is
        classical.

    State dicts go both ways between this class and torch's. ``last_report`` says what the last
    sampled forward did: bytes read, rows, bounds when asked for, warnings.

    Raises InputError for a wrong ``quantum_config``, naming the field.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        quantum_config: QuantumConfig | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            embed_dim, num_heads, dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim,
            batch_first, device, dtype,
        )  # fmt: skip
        self.quantum_config = quantum_config
        self.last_report: dict[str, Any] = {}
        self._calls = 0
        self.register_forward_hook(_stay_visible)

    def reseed(self, calls: int) -> None:
        """Count calls from ``calls``: the next forwards draw as if so many had been made."""
        self._calls = calls

    @property
    def quantum_config(self) -> QuantumConfig:
        """How evaluation attends; may be set anew."""
        return self._config

    @quantum_config.setter
    def quantum_config(self, config: QuantumConfig | Mapping[str, Any] | None) -> None:
        self._config = QuantumConfig.read(config)
        # Plain attributes, which torch.compile can follow.
        self._classical = self._config.backend == "classical"
        self._sample_in_training = self._config.sample_in_training

    @property
    def exact_now(self) -> bool:
        """Whether a forward now is exact: a classical backend, or training without sampling."""
        return self._classical or (self.training and not self._sample_in_training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As torch's: (output, weights or None), masks with True for what is not looked at.

        Weights of a sampled forward are those that the draw estimates. Raises what torch raises for
        wrong shapes.
        """
        masked = key_padding_mask is not None or attn_mask is not None
        inputs = (query, key, value)
        if all(x.layout is torch.jagged for x in inputs) and self.batch_first and not masked:
            return self._jagged(query, key, value, need_weights, average_attn_weights, is_causal)
        nested = any(x.is_nested for x in inputs)
        if nested and query.dim() not in (2, 3):
            self._check(query, key, value, None, None)
        if nested or (self.exact_now and not masked):
            return super().forward(
                query, key, value, key_padding_mask, need_weights, attn_mask,
                average_attn_weights, is_causal,
            )  # fmt: skip
        by_head = attn_mask is not None and attn_mask.dim() == 3
        if self.exact_now and not torch.is_grad_enabled() and not by_head:
            # Torch's fused path, with the rows that it leaves as NaN filled in afterwards.
            out, weights = super().forward(
                query, key, value, key_padding_mask, need_weights, attn_mask,
                average_attn_weights, is_causal,
            )  # fmt: skip
            return self._without_dead_rows(out, weights, key_padding_mask, attn_mask)
        self._check(query, key, value, key_padding_mask, attn_mask)
        batched = query.dim() == 3
        if not batched:
            query, key, value = (x.unsqueeze(1) for x in (query, key, value))
            if key_padding_mask is not None:
                key_padding_mask = key_padding_mask.unsqueeze(0)
        elif self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        out, weights = self._attend(
            query, key, value, key_padding_mask, attn_mask, need_weights, is_causal
        )
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        if not batched:
            return out.squeeze(1), None if weights is None else weights.squeeze(0)
        return (out.transpose(0, 1) if self.batch_first else out), weights

    def _jagged(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool,
        average_attn_weights: bool,
        is_causal: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Sequences of different lengths in one tensor, which torch's module refuses outside of its
        fused path: padded, attended to with the padding masked, and cut to the queries' lengths.
        Weights come padded with zeros.
        """
        q, k, v = (pad_sequence(list(x.unbind()), batch_first=True) for x in (query, key, value))
        there, seen = (
            torch.arange(x.shape[1], device=x.device) < nested.offsets().diff().unsqueeze(1)
            for x, nested in ((q, query), (k, key))
        )
        causal = None
        if is_causal:
            causal = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=q.device).triu(1)
        out, weights = self.forward(q, k, v, ~seen, need_weights, causal, average_attn_weights)
        if weights is not None:
            rows = there if weights.dim() == 3 else there.unsqueeze(1)
            weights = weights * rows.unsqueeze(-1)
        # The offsets of the queries themselves, so that torch knows the lengths to be theirs.
        return torch.nested.nested_tensor_from_jagged(out[there], query.offsets()), weights

    def _without_dead_rows(
        self, out: Tensor, weights: Tensor | None, padding: Tensor | None, attention: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The same with rows that see nothing as the bias alone, their weights as zeros."""
        if self.bias_k is not None or self.add_zero_attn:
            return out, weights
        forbidden = None if attention is None else _additive(attention, out.dtype).isinf()
        if padding is not None:
            rows = _additive(padding, out.dtype).isinf().unsqueeze(-2)
            forbidden = rows if forbidden is None else forbidden | rows
        assert forbidden is not None
        dead = forbidden.all(-1)  # (L,), (batch, L) or (batch, 1)
        if dead.dim() == 2 and not self.batch_first:
            dead = dead.T
        filled = self.out_proj.bias
        empty = out.new_zeros(()) if filled is None else filled.to(out.dtype)
        if dead.dim() == 1 and out.dim() == 3:
            dead = dead[None, :] if self.batch_first else dead[:, None]
        if out.numel():
            out = torch.where(dead.unsqueeze(-1), empty, out)
        if weights is not None and weights.numel():
            # (batch, L, S) or (batch, heads, L, S), or without a batch; the mask of rows alone.
            gone = forbidden.all(-1, keepdim=True)
            gone = gone.unsqueeze(1) if weights.dim() == 4 and gone.dim() == 3 else gone
            weights = torch.where(gone, weights.new_zeros(()), weights)
        return out, weights

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None,
        attn_mask: Tensor | None,
        need_weights: bool,
        is_causal: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Inputs (length, batch, dim); output likewise, weights (batch, heads, L, S)."""
        length, batch = query.shape[:2]
        q, k, v = self._project(query, key, value)
        q, k, v = (self._split(x, batch) for x in (q, k, v))
        if self.add_zero_attn:
            zero = k.new_zeros(k.shape[0], 1, k.shape[2])
            k, v = torch.cat([k, zero], 1), torch.cat([v, zero], 1)
        added = k.shape[1] - key.shape[0]
        mask = self._merge(
            key_padding_mask, attn_mask, is_causal and attn_mask is None, q, k, added
        )
        scale = 1 / math.sqrt(self.head_dim)
        if self.exact_now:
            weights = safe_softmax(scores_of(q, k, mask, scale))
            weights = F.dropout(weights, self.dropout, self.training)
            out = weights @ v
        else:
            self._calls += 1
            out, weights, self.last_report = attend_heads(
                q, k, v, mask, scale, self.quantum_config, call=self._calls
            )
        joined = out.transpose(0, 1).reshape(length, batch, self.embed_dim)
        result = self.out_proj(joined)
        shown = weights.reshape(batch, self.num_heads, *weights.shape[1:]) if need_weights else None
        return result, shown

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        bias = self.in_proj_bias
        parts = (None, None, None) if bias is None else bias.chunk(3)
        if self._qkv_same_embed_dim:
            heads = self.in_proj_weight.chunk(3)
        else:
            heads = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        q, k, v = (
            F.linear(x, w, b) for x, w, b in zip((query, key, value), heads, parts, strict=True)
        )
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.repeat(1, k.shape[1], 1)])
            v = torch.cat([v, self.bias_v.repeat(1, v.shape[1], 1)])
        return q, k, v

    def _split(self, x: Tensor, batch: int) -> Tensor:
        """(length, batch, heads * dim) to (batch * heads, length, dim)."""
        heads = batch * self.num_heads
        return x.contiguous().view(x.shape[0], heads, self.head_dim).transpose(0, 1)

    def _merge(
        self,
        padding: Tensor | None,
        attention: Tensor | None,
        causal: bool,
        q: Tensor,
        k: Tensor,
        added: int,
    ) -> Tensor | None:
        """One additive mask (batch * heads or 1, L or 1, S), with room for the added keys."""
        length, size = q.shape[1], k.shape[1] - added
        found: Tensor | None = None
        if attention is not None:
            found = _additive(attention, q.dtype)
            found = found.unsqueeze(0) if found.dim() == 2 else found
        if causal:
            future = torch.ones(length, size, dtype=torch.bool, device=q.device).triu(1)
            found = _additive(future, q.dtype).unsqueeze(0)
        if padding is not None:
            rows = _additive(padding, q.dtype)[:, None, None, :]
            rows = rows.expand(-1, self.num_heads, 1, -1).reshape(q.shape[0], 1, size)
            found = rows if found is None else found + rows
        return None if found is None else F.pad(found, (0, added))

    def _check(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None,
        attn_mask: Tensor | None,
    ) -> None:
        """Raise what torch raises: its own code looks at shapes when given nothing to compute."""
        dim = query.dim()
        F._mha_shape_check(  # type: ignore[attr-defined]  # noqa: SLF001
            query if dim != 3 or not self.batch_first else query.transpose(0, 1),
            key if dim != 3 or not self.batch_first else key.transpose(0, 1),
            value if dim != 3 or not self.batch_first else value.transpose(0, 1),
            key_padding_mask,
            attn_mask,
            self.num_heads,
        )
        axis = 1 if dim == 3 and self.batch_first else 0
        length, size = query.shape[axis], key.shape[axis]
        batch = query.shape[1 - axis] if dim == 3 else 1
        if query.shape[-1] != self.embed_dim:
            raise AssertionError(
                f"was expecting embedding dimension of {self.embed_dim}, but got {query.shape[-1]}"
            )
        if key.shape[:-1] != value.shape[:-1]:
            raise AssertionError(
                f"key's sequence and batch dims {key.shape[:-1]} do not match value's "
                f"{value.shape[:-1]}"
            )
        wanted = {2: (length, size), 3: (batch * self.num_heads, length, size)}
        if attn_mask is not None and tuple(attn_mask.shape) != wanted[attn_mask.dim()]:
            raise RuntimeError(
                f"The shape of the {attn_mask.dim()}D attn_mask is {tuple(attn_mask.shape)}, "
                f"but should be {wanted[attn_mask.dim()]}."
            )
        padded = (batch, size) if dim == 3 else (size,)
        if key_padding_mask is not None and tuple(key_padding_mask.shape) != padded:
            raise AssertionError(
                f"expecting key_padding_mask shape of {padded}, but got {key_padding_mask.shape}"
            )


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -math.inf)
    if not mask.is_floating_point():
        raise AssertionError("only bool and floating types of masks are supported")
    return mask.to(dtype)
