"""How a model is trained: one configuration for the loop, for Ray workers and for files."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from qcluster.config import Config

__all__ = ["Precision", "TrainingConfig"]

Precision = Literal["no", "auto", "bf16", "fp16"]


class TrainingConfig(Config):
    """Switches of training. Batch sizes are global: the same on one worker and on eight."""

    max_steps: int | None = Field(default=None, gt=0)
    """Optimiser steps; None trains ``epochs``."""
    epochs: int = Field(default=1, gt=0)
    """Passes over the data where ``max_steps`` is None."""
    batch_size: int = Field(default=32, gt=0)
    """Samples a step over all workers together."""
    micro_batch_size: int | None = Field(default=None, gt=0)
    """Most samples a forward pass on one worker; more are accumulated. None: no limit."""
    shuffle: bool = True
    """A new seeded order each epoch; False keeps the data's order."""
    shuffle_window: int = Field(default=4096, gt=0)
    """Rows of a stream (Ray Data) that are shuffled among each other; so many are held."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW (Loshchilov and Hutter 2019) or SGD with ``momentum``."""
    learning_rate: float = Field(default=3e-4, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Applied to matrices; biases and norms are left alone."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Course of the learning rate after the warm-up, down to ``final_lr`` times the peak."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear rise."""
    final_lr: float = Field(default=0.1, ge=0, le=1)
    """Share of the peak that a falling schedule ends at."""
    clip_norm: float | None = Field(default=1.0, gt=0)
    """Largest global norm of the gradient."""
    mixed_precision: Precision = "no"
    """``auto``: bfloat16 where the device has it, else float16 with loss scaling."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Keep an exponential moving average of the weights; evaluation uses it."""
    eval_every: int | None = Field(default=None, gt=0)
    """Steps between evaluations; None: at the end of training only."""
    save_every: int | None = Field(default=None, gt=0)
    """Steps between checkpoints; None: at the end only."""
    keep_checkpoints: int = Field(default=2, gt=0)
    """Newest checkpoints that are kept."""
    log_every: int = Field(default=10, gt=0)
    """Steps between lines of the log."""
    patience: int | None = Field(default=None, gt=0)
    """Stop after so many evaluations without a better loss."""
    min_delta: float = Field(default=0.0, ge=0)
    """What counts as better."""
    tensor_ranks: int = Field(default=1, gt=0)
    """Neighbouring workers that share data and random draws (a tensor-parallel group)."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """Several workers: whole copies with averaged gradients, or sharded weights."""
    compression: dict[str, Any] | None = None
    """Gradients between workers are coded, with these options (``bits``, ``feedback`` and others
    of ``q_compressor.GradientConfig``); ``{}`` takes its defaults, None sends them as they are."""
    seed: int = Field(default=0, ge=0)
    """Of the order, of dropout and of sampled attention."""

    @model_validator(mode="after")
    def _patience_needs_evaluations(self) -> TrainingConfig:
        if self.patience is not None and self.eval_every is None:
            raise ValueError("patience needs eval_every")
        return self
