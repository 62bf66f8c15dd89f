"""One layer of a transformer: attention, perhaps cross attention, feed-forward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from qcluster.errors import InputError
from qcluster.qtransformers.architecture import Activation
from qcluster.qtransformers.head_attention import HeadAttention, KeyValue

__all__ = ["BlockCache", "QuantumTransformerBlock"]


class BlockCache(NamedTuple):
    """What a layer keeps between decoding steps."""

    own: KeyValue | None
    cross: KeyValue | None


class QuantumTransformerBlock(nn.Module):
    """A transformer layer whose attention takes a ``quantum_config``.

    Parameters
    ----------
    d_model, nhead: width and heads.
    dim_feedforward: inner width; None is four times ``d_model``.
    dropout: on attention weights, inner activations and both residuals.
    activation, norm_first, layer_norm_eps: see ``TransformerConfig``.
    causal: position i sees positions up to i only.
    cross: a second attention to an encoder's output.
    quantum_config: see ``HeadAttention``; None is exact attention by PyTorch.

    Layer layouts: Vaswani et al. 2017 (after), Radford et al. 2019 (before).
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int | None = None,
        dropout: float = 0.1,
        *,
        activation: Activation = "gelu",
        norm_first: bool = True,
        layer_norm_eps: float = 1e-5,
        causal: bool = False,
        cross: bool = False,
        quantum_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if d_model < 1 or nhead < 1 or d_model % nhead:
            raise InputError(f"d_model {d_model} is not divisible by nhead {nhead}", field="nhead")
        inner = dim_feedforward or 4 * d_model
        self.causal, self.norm_first, self.activation = causal, norm_first, activation
        self.attention = HeadAttention(
            d_model, nhead, dropout=dropout, quantum_config=quantum_config
        )
        self.norm_attention = nn.LayerNorm(d_model, eps=layer_norm_eps)
        self.cross = (
            HeadAttention(d_model, nhead, dropout=dropout, quantum_config=quantum_config)
            if cross
            else None
        )
        self.norm_cross = nn.LayerNorm(d_model, eps=layer_norm_eps) if cross else None
        self.up = nn.Linear(d_model, inner)
        self.down = nn.Linear(inner, d_model)
        self.norm_feedforward = nn.LayerNorm(d_model, eps=layer_norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        keep: Tensor | None = None,
        memory_keep: Tensor | None = None,
        cache: BlockCache | None = None,
        want_cache: bool = False,
    ) -> tuple[Tensor, BlockCache | None]:
        """``x`` (batch, n, d_model) one layer further, and the cache if it is wanted.

        ``keep`` (batch, keys) and ``memory_keep`` (batch, memory length) are True where a key may
        be seen; None sees all.
        """
        own, cross = cache or (None, None)
        mixed, own = self.attention(
            self._before(self.norm_attention, x),
            keep=keep,
            causal=self.causal,
            cache=own,
            want_cache=want_cache,
        )
        x = self._after(self.norm_attention, x + self.dropout(mixed))
        if self.cross is not None and self.norm_cross is not None and memory is not None:
            mixed, cross = self.cross(
                self._before(self.norm_cross, x),
                memory,
                keep=memory_keep,
                cache=cross,
                want_cache=want_cache,
            )
            x = self._after(self.norm_cross, x + self.dropout(mixed))
        inner = activate(self.activation, self.up(self._before(self.norm_feedforward, x)))
        x = self._after(self.norm_feedforward, x + self.dropout(self.down(inner)))
        return x, BlockCache(own, cross) if want_cache else None

    def _before(self, norm: nn.LayerNorm, x: Tensor) -> Tensor:
        return norm(x) if self.norm_first else x

    def _after(self, norm: nn.LayerNorm, x: Tensor) -> Tensor:
        return x if self.norm_first else norm(x)


def activate(name: Activation, x: Tensor) -> Tensor:
    """The activation called ``name``."""
    if name == "gelu":
        return functional.gelu(x)
    if name == "gelu_tanh":
        return functional.gelu(x, approximate="tanh")
    return functional.relu(x) if name == "relu" else functional.silu(x)
