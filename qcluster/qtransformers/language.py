"""``kind: transformer``: a configuration file to a trained language model.

Text is read as bytes. What is written: ``model/`` (safetensors and ``config.json``), ``steps.csv``,
``evaluations.csv``, ``report.json``, checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from qcluster.config import Config
from qcluster.errors import InputError
from qcluster.qtransformers import text, zoo
from qcluster.qtransformers.data import TokenWindows
from qcluster.qtransformers.hf import save_model
from qcluster.qtransformers.model import ScalableQuantumTransformer
from qcluster.qtransformers.train_config import TrainingConfig
from qcluster.qtransformers.trainer import QuantumTrainer

__all__ = ["DataConfig", "LanguageConfig", "train"]


class DataConfig(Config):
    """What is read."""

    text: str | list[str] = "python-stdlib"
    """Files, or ``python-stdlib``: sources of the running Python's standard library."""
    limit: int = Field(default=2_000_000, gt=0)
    """Bytes of the standard library that are taken."""
    length: int = Field(default=128, gt=1)
    """Bytes of context."""
    held_out: float = Field(default=0.1, gt=0, lt=1)
    """Share at the end of the text that is measured on."""


class LanguageConfig(Config):
    """The file of ``kind: transformer``."""

    model: dict[str, Any] = Field(default_factory=dict)
    """Fields of ``TransformerConfig``, or ``size`` of ``zoo.gpt``, or ``load``: a directory."""
    data: DataConfig = DataConfig()
    training: dict[str, Any] = Field(default_factory=dict)
    """Fields of ``TrainingConfig``."""
    workers: int | tuple[int, int] | list[int] | None = None
    """Workers on Ray, or least and most; None: this process."""
    multi_gpu: bool = False
    mixed_precision: bool = False
    loggers: list[Literal["csv", "tensorboard", "mlflow"]] = Field(default=["csv"])
    comm_hook: str | None = None
    """Name or ``module:function`` of a communication hook."""


def train(
    config: Mapping[str, Any], *, out: Path, resume: bool = False, note: Callable[[str], None]
) -> dict[str, Any]:
    """Train a byte-level language model; returns the report with ``bits_per_byte`` and ``model``.

    Raises InputError naming the field that is wrong, and FormatError for text that is absent.
    """
    settings = LanguageConfig.read(config)
    options = TrainingConfig.read(settings.training)
    data = settings.data
    train_ids, held_out = text.split(_text(data), data.held_out)
    model = _model(settings, options.seed)
    trainer = QuantumTrainer(
        model,
        TokenWindows(train_ids, data.length),
        TokenWindows(held_out, data.length),
        config=options,
        multi_gpu=settings.multi_gpu,
        mixed_precision=settings.mixed_precision,
        num_workers=_workers(settings.workers),
        loggers=settings.loggers,
        comm_hook=settings.comm_hook,
        directory=out,
        progress=True,
    )
    report = trainer.train(resume_from_checkpoint=resume)
    save_model(model, out / "model")
    for line in report.notes:
        note(line)
    result = report.to_dict()
    result["bits_per_byte"] = text.bits_per_byte(report.evaluations[-1]["loss"])
    result["model"] = str(out / "model")
    (out / "report.json").write_text(json.dumps(result) + "\n")
    return result


def _text(data: DataConfig) -> Any:
    if data.text == "python-stdlib":
        return text.standard_library(data.limit)
    return text.read_files([data.text] if isinstance(data.text, str) else data.text)


def _model(settings: LanguageConfig, seed: int) -> ScalableQuantumTransformer:
    fields = dict(settings.model)
    torch.manual_seed(seed)
    if "load" in fields:
        source = fields.pop("load")
        if set(fields) - {"quantum_config"}:
            raise InputError("a loaded model has its own sizes", field="model")
        model = zoo.load(source, **fields)
    elif "size" in fields or not fields:
        size = fields.pop("size", "nano")
        model = zoo.gpt(size, **{"vocab_size": text.BYTES, **fields})
    else:
        model = zoo.custom(**{"vocab_size": text.BYTES, **fields})
    if model.config.kind != "decoder" or model.config.vocab_size < text.BYTES:
        raise InputError(
            f"a text model is a decoder over {text.BYTES} bytes, this is a "
            f"{model.config.kind} over {model.config.vocab_size} ids",
            field="model",
        )
    if model.config.max_length <= settings.data.length:
        raise InputError(
            f"max_length {model.config.max_length} must exceed data.length {settings.data.length}",
            field="model.max_length",
        )
    return model


def _workers(asked: Any) -> int | tuple[int, int] | None:
    if isinstance(asked, (list, tuple)):
        if len(asked) != 2:
            raise InputError("wanted a number, or the least and the most", field="workers")
        return int(asked[0]), int(asked[1])
    return None if asked is None else int(asked)
