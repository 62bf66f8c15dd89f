"""``ScalableQuantumTransformer``: encoder, decoder or both, with a head and a loss.

The loss is averaged over the positions that count (label not -100), so a trainer that splits a
batch over workers needs to know how many those are: ``loss_weight`` says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from qcluster.errors import InputError
from qcluster.qtransformers.architecture import TransformerConfig
from qcluster.qtransformers.block import BlockCache, QuantumTransformerBlock, activate

__all__ = ["IGNORE", "ModelOutput", "ScalableQuantumTransformer"]

IGNORE = -100
"""Label of positions that no loss is taken of."""

Cache = tuple[BlockCache, ...]


class ModelOutput(NamedTuple):
    """What a forward pass gives: loss (scalar) or None, logits, last hidden states, cache."""

    loss: Tensor | None
    logits: Tensor
    hidden: Tensor
    cache: Cache | None = None


class ScalableQuantumTransformer(nn.Module):
    """A transformer whose attention layers take a ``quantum_config``.

    Parameters
    ----------
    config: everything at once; or
    **fields: the fields of ``TransformerConfig`` (``vocab_size``, ``d_model``, ``nhead``,
        ``num_encoder_layers``, ``num_decoder_layers``, ``quantum_config``, ...).

    Raises InputError naming the first field that is wrong.
    """

    def __init__(
        self, config: TransformerConfig | Mapping[str, Any] | None = None, **fields: Any
    ) -> None:
        super().__init__()
        given = dict(config) if config is not None else {}
        self.config = TransformerConfig.read({**given, **fields})
        c = self.config
        self.token = nn.Embedding(c.vocab_size, c.d_model)
        self.position = (
            nn.Embedding(c.max_length, c.d_model) if c.position == "learned" else _Sines(c)
        )
        self.token_type = nn.Embedding(c.token_types, c.d_model) if c.token_types else None
        self.embedding_norm = (
            nn.LayerNorm(c.d_model, eps=c.layer_norm_eps) if c.embedding_norm else None
        )
        self.dropout = nn.Dropout(c.dropout)
        both = c.kind == "encoder-decoder"
        self.encoder = nn.ModuleList(self._block() for _ in range(c.num_encoder_layers))
        self.decoder = nn.ModuleList(
            self._block(causal=True, cross=both) for _ in range(c.num_decoder_layers)
        )
        self.encoder_norm = self._final_norm(c.num_encoder_layers)
        self.decoder_norm = self._final_norm(c.num_decoder_layers)
        self.head = _make_head(c, self.token.weight)
        self.apply(_initialise)
        self._scale_residuals()

    def _block(self, *, causal: bool = False, cross: bool = False) -> QuantumTransformerBlock:
        c = self.config
        return QuantumTransformerBlock(
            c.d_model,
            c.nhead,
            c.inner,
            c.dropout,
            activation=c.activation,
            norm_first=c.norm_first,
            layer_norm_eps=c.layer_norm_eps,
            causal=causal,
            cross=cross,
            quantum_config=c.quantum_config,
        )

    def _final_norm(self, layers: int) -> nn.LayerNorm | None:
        wanted = layers and self.config.norm_first
        return nn.LayerNorm(self.config.d_model, eps=self.config.layer_norm_eps) if wanted else None

    def _scale_residuals(self) -> None:
        # Radford et al. 2019: the residual stream's variance must not grow with depth.
        depth = self.config.num_encoder_layers + self.config.num_decoder_layers
        for name, weight in self.named_parameters():
            if name.endswith(("out_proj.weight", "down.weight")):
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * depth))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        memory: Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool = False,
    ) -> ModelOutput:
        """Logits, and the loss where labels are given.

        ``input_ids`` (batch, n) int64; ``attention_mask`` (batch, n) 1 where a token counts (with
        a cache: over all positions so far). A decoder is trained on its own input (``labels`` are
        the same ids, shifted here), an encoder on ``labels`` in place, a classifier on (batch,)
        classes; an encoder-decoder is fed the shifted labels where no ``decoder_input_ids`` come.
        ``memory``: encoder output to use again instead of encoding ``input_ids``.

        Raises InputError for ids outside the vocabulary or sequences that are too long.
        """
        kind = self.config.kind
        attention_mask = self._mask(input_ids, attention_mask)
        keep = None if attention_mask is None else attention_mask.bool()
        if kind == "decoder":
            hidden, cache = self._decode(
                input_ids, token_type_ids, keep, None, None, cache, use_cache
            )
        else:
            hidden = self.encode(input_ids, keep, token_type_ids) if memory is None else memory
            if kind == "encoder-decoder":
                target = self._decoder_input(decoder_input_ids, labels)
                hidden, cache = self._decode(target, None, None, hidden, keep, cache, use_cache)
        logits = self.head(hidden, keep) if self.config.head == "classifier" else self.head(hidden)
        loss = None if labels is None else self.loss(logits, labels)
        return ModelOutput(loss, logits, hidden, cache if use_cache else None)

    def encode(
        self, input_ids: Tensor, keep: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """The encoder's output (batch, n, d_model); ``keep`` as a boolean attention mask."""
        x = self._embed(input_ids, token_type_ids, 0, keep)
        for layer in self.encoder:
            x, _ = layer(x, keep=keep)
        return x if self.encoder_norm is None else cast(Tensor, self.encoder_norm(x))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross entropy over the labels that are not ``IGNORE``, in nats.

        Raises InputError for labels that are no class or token.
        """
        if self.config.head != "classifier":
            if self.config.kind == "decoder":
                logits, labels = logits[:, :-1], labels[:, 1:]
            logits, labels = logits.flatten(0, 1), labels.flatten()
        try:
            return functional.cross_entropy(logits.float(), labels.long(), ignore_index=IGNORE)
        except IndexError as error:
            raise InputError(str(error), field="labels") from None

    def loss_weight(self, batch: Mapping[str, Tensor]) -> int:
        """How many labels the loss of this batch is the mean of."""
        labels = batch["labels"]
        if self.config.head == "classifier":
            return int(labels.shape[0])
        if self.config.kind == "decoder":
            labels = labels[:, 1:]
        return int((labels != IGNORE).sum())

    def _decode(
        self,
        ids: Tensor,
        types: Tensor | None,
        keep: Tensor | None,
        memory: Tensor | None,
        memory_keep: Tensor | None,
        cache: Cache | None,
        want: bool,
    ) -> tuple[Tensor, Cache | None]:
        past = 0 if cache is None or cache[0].own is None else cache[0].own.key.shape[2]
        x = self._embed(ids, types, past, keep)
        kept: list[BlockCache] = []
        for index, layer in enumerate(self.decoder):
            x, state = layer(
                x,
                memory,
                keep=keep,
                memory_keep=memory_keep,
                cache=None if cache is None else cache[index],
                want_cache=want,
            )
            if state is not None:
                kept.append(state)
        x = x if self.decoder_norm is None else self.decoder_norm(x)
        return x, tuple(kept) if want else None

    def _embed(self, ids: Tensor, types: Tensor | None, past: int, keep: Tensor | None) -> Tensor:
        if ids.dim() != 2 or not ids.shape[1]:
            raise InputError(f"wanted (batch, length), came {tuple(ids.shape)}", field="input_ids")
        if past + ids.shape[1] > self.config.max_length:
            raise InputError(
                f"{past + ids.shape[1]} tokens are more than max_length {self.config.max_length}",
                field="input_ids",
            )
        places = torch.arange(past, past + ids.shape[1], device=ids.device)
        if (
            self.config.kind == "decoder"
            and keep is not None
            and past + ids.shape[1] == keep.shape[1]
        ):
            # Padding on the left does not shift positions.
            places = (keep.long().cumsum(1) - 1).clamp_min(0)[:, past:]
        try:
            x = self.token(ids) + self.position(places)
        except IndexError:
            size = self.config.vocab_size
            raise InputError(f"ids from 0 to {size - 1} wanted, came {int(ids.min())} to "
                             f"{int(ids.max())}", field="input_ids") from None  # fmt: skip
        if self.token_type is not None:
            x = x + self.token_type(torch.zeros_like(ids) if types is None else types)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        return cast(Tensor, self.dropout(x))

    def _mask(self, ids: Tensor, mask: Tensor | None) -> Tensor | None:
        if ids.is_floating_point():
            raise InputError(f"wanted integers, came {ids.dtype}", field="input_ids")
        if mask is None and self.config.pad_token_id is not None:
            found = ids != self.config.pad_token_id
            return None if bool(found.all()) else found
        return mask

    def _decoder_input(self, ids: Tensor | None, labels: Tensor | None) -> Tensor:
        if ids is not None:
            return ids
        if labels is None:
            raise InputError("an encoder-decoder needs it, or labels", field="decoder_input_ids")
        start = torch.full_like(labels[:, :1], self.config.start_token_id)
        shifted = torch.cat([start, labels[:, :-1]], dim=1)
        return shifted.masked_fill(shifted == IGNORE, self.config.pad_token_id or 0)

    def generate(self, input_ids: Tensor, **options: Any) -> Tensor:
        """Continue ``input_ids``; see ``qcluster.qtransformers.generation.generate``."""
        from qcluster.qtransformers.generation import generate

        return generate(self, input_ids, **options)


class LanguageHead(nn.Module):
    """Hidden states to token logits, with BERT's transform where the configuration has it."""

    def __init__(self, c: TransformerConfig, tied: Tensor) -> None:
        super().__init__()
        self.activation = c.activation
        self.dense = nn.Linear(c.d_model, c.d_model) if c.lm_transform else None
        self.norm = nn.LayerNorm(c.d_model, eps=c.layer_norm_eps) if c.lm_transform else None
        self.out = nn.Linear(c.d_model, c.vocab_size, bias=c.lm_transform)
        if c.tie_weights:
            self.out.weight = cast(nn.Parameter, tied)

    def forward(self, hidden: Tensor) -> Tensor:
        """(batch, n, d_model) to (batch, n, vocab_size)."""
        if self.dense is not None and self.norm is not None:
            hidden = self.norm(activate(self.activation, self.dense(hidden)))
        return cast(Tensor, self.out(hidden))


class ClassifierHead(nn.Module):
    """One position's hidden state through a tanh layer to class logits (BERT's pooler).

    The position is the first, or for a decoder the last that is not padding.
    """

    def __init__(self, c: TransformerConfig) -> None:
        super().__init__()
        self.last = c.num_decoder_layers > 0
        self.pool = nn.Linear(c.d_model, c.d_model)
        self.dropout = nn.Dropout(c.dropout)
        self.out = nn.Linear(c.d_model, c.num_labels)

    def forward(self, hidden: Tensor, keep: Tensor | None = None) -> Tensor:
        """(batch, n, d_model) to (batch, num_labels); ``keep`` (batch, n) is False at padding."""
        summary = hidden[:, -1] if self.last else hidden[:, 0]
        if self.last and keep is not None and keep.shape[1] == hidden.shape[1]:
            places = torch.arange(keep.shape[1], device=keep.device)
            last = places.expand_as(keep).masked_fill(~keep, 0).amax(1)
            summary = hidden[torch.arange(len(hidden), device=hidden.device), last]
        return cast(Tensor, self.out(self.dropout(torch.tanh(self.pool(summary)))))


class _Sines(nn.Module):
    """Fixed sine and cosine positions (Vaswani et al. 2017)."""

    def __init__(self, c: TransformerConfig) -> None:
        super().__init__()
        rates = torch.exp(torch.arange(0, c.d_model, 2) * (-math.log(10_000.0) / c.d_model))
        angles = torch.arange(c.max_length)[:, None] * rates
        table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
        self.register_buffer("table", table * 0.02, persistent=False)

    def forward(self, places: Tensor) -> Tensor:
        """Positions (...) to (..., d_model)."""
        return cast(Tensor, self.table)[places]


def _make_head(c: TransformerConfig, tied: Tensor) -> nn.Module:
    if c.head == "lm":
        return LanguageHead(c, tied)
    return ClassifierHead(c) if c.head == "classifier" else nn.Identity()


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.MultiheadAttention):
        nn.init.normal_(module.in_proj_weight, std=0.02)
