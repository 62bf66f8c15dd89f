"""What a transformer is made of: one configuration for encoders, decoders and both.

``TransformerConfig`` is the same object in Python, in ``config.json`` beside the weights and in the
configuration files of ``qcluster train``. It knows nothing of tensors.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from qcluster.config import Config

__all__ = ["Activation", "HeadKind", "TransformerConfig"]

Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
HeadKind = Literal["lm", "classifier", "none"]


class TransformerConfig(Config):
    """Sizes and switches of a ``ScalableQuantumTransformer``."""

    vocab_size: int = Field(gt=0)
    """Number of token ids."""
    d_model: int = Field(default=256, gt=0)
    """Width of the residual stream."""
    nhead: int = Field(default=4, gt=0)
    """Attention heads a layer; divides ``d_model``."""
    num_encoder_layers: int = Field(default=0, ge=0)
    """Layers that see the whole sequence."""
    num_decoder_layers: int = Field(default=0, ge=0)
    """Layers that see the past only; with an encoder they also attend to its output."""
    dim_feedforward: int | None = Field(default=None, gt=0)
    """Inner width of the feed-forward part; None is four times ``d_model``."""
    dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of activations dropped in training."""
    activation: Activation = "gelu"
    """``gelu_tanh`` is the approximation that GPT-2 was trained with."""
    norm_first: bool = True
    """True: normalise before each part (GPT-2). False: after the residual sum (BERT)."""
    layer_norm_eps: float = Field(default=1e-5, gt=0.0)
    """Added to the variance in every layer norm."""
    max_length: int = Field(default=1024, gt=0)
    """Longest sequence; the number of learned positions."""
    position: Literal["learned", "sinusoidal"] = "learned"
    """Learned table, or the fixed sines of Vaswani et al. 2017."""
    token_types: int = Field(default=0, ge=0)
    """Segment embeddings (BERT: 2); 0 for none."""
    embedding_norm: bool = False
    """Layer norm over the summed embeddings (BERT)."""
    head: HeadKind = "lm"
    """Token logits, one label a sequence, or the hidden states alone."""
    lm_transform: bool = False
    """Dense, activation and layer norm before the token logits (BERT), with a bias after them."""
    num_labels: int = Field(default=2, gt=0)
    """Classes of the classifier head."""
    tie_weights: bool = True
    """Token logits share the embedding's weights."""
    pad_token_id: int | None = None
    """Where no attention mask is given, positions with this id are masked."""
    mask_token_id: int | None = None
    """Masks tokens in masked language modelling; None takes the last id."""
    eos_token_id: int | None = None
    """Ends generation."""
    start_token_id: int = 0
    """First decoder token of an encoder-decoder model."""
    quantum_config: dict[str, Any] | None = None
    """``backend`` (a name, or a list with one name a head), ``num_samples``, ..."""

    @model_validator(mode="after")
    def _consistent(self) -> TransformerConfig:
        if self.d_model % self.nhead:
            raise ValueError(f"d_model {self.d_model} is not divisible by nhead {self.nhead}")
        if self.position == "sinusoidal" and self.d_model % 2:
            raise ValueError("sinusoidal positions need an even d_model")
        if not self.num_encoder_layers and not self.num_decoder_layers:
            raise ValueError("a transformer needs encoder or decoder layers")
        for name in ("pad_token_id", "mask_token_id", "eos_token_id", "start_token_id"):
            token = getattr(self, name)
            if token is not None and not 0 <= token < self.vocab_size:
                raise ValueError(f"{name} {token} is outside the vocabulary of {self.vocab_size}")
        return self

    @property
    def inner(self) -> int:
        """Width inside the feed-forward part."""
        return self.dim_feedforward or 4 * self.d_model

    @property
    def kind(self) -> Literal["encoder", "decoder", "encoder-decoder"]:
        """Which stacks there are."""
        if not self.num_decoder_layers:
            return "encoder"
        return "encoder-decoder" if self.num_encoder_layers else "decoder"
