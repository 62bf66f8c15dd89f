"""An evaluation from a configuration: tasks, a model, perhaps a second attention beside exact."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qcluster.config import Config
from qcluster.errors import InputError
from qcluster.qtransformers.evaluation import significance
from qcluster.qtransformers.evaluation.finetune import classifier_from, finetune, predict
from qcluster.qtransformers.evaluation.metrics import METRICS, accuracy
from qcluster.qtransformers.evaluation.probe import Head, features
from qcluster.qtransformers.evaluation.report import EvaluationReport
from qcluster.qtransformers.evaluation.tasks import TASKS, Example, from_hub, load_task
from qcluster.qtransformers.evaluation.wordpiece import WordPiece
from qcluster.qtransformers.hf import load_model
from qcluster.qtransformers.model import ScalableQuantumTransformer

__all__ = ["EvaluationConfig", "TaskFiles", "evaluate", "folds"]

Labels = NDArray[np.int64]


class TaskFiles(Config):
    """Where a task's examples are. No files: the ``datasets`` library."""

    train: str | None = None
    """To fit the head on."""
    test: str | None = None
    """To measure on; None: two fifths of ``train``, twins kept together."""


class EvaluationConfig(Config):
    """The file of ``qcluster evaluate``."""

    model: str
    """Directory of a BERT with ``config.json``, weights and ``vocab.txt``."""
    tasks: dict[str, TaskFiles] = Field(min_length=1)
    """By task name."""
    method: Literal["probe", "finetune"] = "probe"
    """A logistic head on the frozen model, or all weights trained."""
    new: dict[str, Any] | None = None
    """A ``quantum_config`` to be compared with exact attention."""
    margin: float = Field(default=0.015, gt=0, lt=1)
    """Share of accuracy that non-inferiority may lose."""
    train_limit: int | None = Field(default=None, gt=1)
    """Most training examples a task, the first of a seeded shuffle."""
    max_length: int = Field(default=256, gt=4)
    """Tokens a text is cut to."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """Fields of ``TrainingConfig`` for ``finetune``."""
    lower: bool = True
    """Whether the model's vocabulary is lower-cased."""
    seed: int = Field(default=0, ge=0)


def evaluate(
    config: Mapping[str, Any] | EvaluationConfig, *, note: Callable[[str], None] = lambda _: None
) -> EvaluationReport:
    """Scores by task, and with ``new`` the comparison with exact attention.

    Raises InputError naming the field, and FormatError naming file and row of bad data.
    """
    c = EvaluationConfig.read(config)
    began = time.perf_counter()
    data = {name: _examples(name, files, c) for name, files in c.tasks.items()}
    exact = load_model(c.model, head="none")
    tokenizer = WordPiece.read(Path(c.model) / "vocab.txt", lower=c.lower)
    if len(tokenizer.ids) > exact.config.vocab_size:
        raise InputError("vocab.txt has more tokens than the model", field="model")
    new = None if c.new is None else load_model(c.model, head="none", quantum_config=c.new)
    scores: dict[str, dict[str, Any]] = {}
    parts: dict[str, tuple[Labels, Labels, Labels, list[str]]] = {}
    for name, (train, test) in data.items():
        note(f"{name}: {len(train)} to learn from, {len(test)} to measure on")
        old, other = _predict(c, name, exact, new, tokenizer, train, test)
        true = np.array([example.label for example in test])
        metric = METRICS[TASKS[name].metric]
        scores[name] = {
            "items": len(test), "metric": metric(old, true), "accuracy": accuracy(old, true),
            "majority": float(np.bincount(true).max() / len(true)),
        }  # fmt: skip
        if other is not None:
            parts[name] = (other, old, true, [example.group for example in test])
    report = EvaluationReport(model=c.model, scores=scores, new=c.new)
    if parts:
        report = _compared(report, parts, c)
    return replace(report, wall_s=time.perf_counter() - began)


def _compared(
    report: EvaluationReport,
    parts: Mapping[str, tuple[Labels, Labels, Labels, list[str]]],
    c: EvaluationConfig,
) -> EvaluationReport:
    found = [
        significance.compare(
            *part[:3], name=name, metric_name=TASKS[name].metric,
            metric=METRICS[TASKS[name].metric], margin=c.margin, groups=part[3], seed=c.seed,
        )
        for name, part in parts.items()
    ]  # fmt: skip
    adjusted = significance.holm({one.name: one.p_value for one in found})
    joined = significance.pool(parts)
    pooled = significance.compare(
        *joined[:3], name="pooled", metric_name="accuracy", metric=accuracy, margin=c.margin,
        groups=joined[3], seed=c.seed,
    )  # fmt: skip
    marked = tuple(replace(one, adjusted_p_value=adjusted[one.name]) for one in found)
    return replace(report, comparisons=marked, pooled=pooled)


def _predict(
    c: EvaluationConfig,
    name: str,
    exact: ScalableQuantumTransformer,
    new: ScalableQuantumTransformer | None,
    tokenizer: WordPiece,
    train: Sequence[Example],
    test: Sequence[Example],
) -> tuple[Labels, Labels | None]:
    """Predictions of exact attention, and of the new one."""
    options = {"max_length": c.max_length, "seed": c.seed}
    classes = TASKS[name].classes
    if c.method == "finetune":
        tuned = finetune(exact, tokenizer, train, classes, recipe=c.recipe, **options)
        old = predict(tuned, tokenizer, test, **options)
        if new is None:
            return old, None
        other = classifier_from(tuned, classes, quantum_config=c.new)
        return old, predict(other, tokenizer, test, **options)
    labels = np.array([example.label for example in train])
    head = Head(choices=len(train[0].texts) > 1)
    head.fit(features(exact, tokenizer, train, **options), labels)
    old = head.predict(features(exact, tokenizer, test, **options))
    if new is None:
        return old, None
    return old, head.predict(features(new, tokenizer, test, **options))


def _examples(
    name: str, files: TaskFiles, c: EvaluationConfig
) -> tuple[list[Example], list[Example]]:
    if files.train is None:
        train = from_hub(name, "train")
        test = from_hub(name) if files.test is None else load_task(name, files.test)
    else:
        train = load_task(name, files.train)
        if files.test is None:
            train, test = folds(train, 0.4, c.seed)
        else:
            test = load_task(name, files.test)
    if c.train_limit is not None and len(train) > c.train_limit:
        order = np.random.default_rng(c.seed).permutation(len(train))[: c.train_limit]
        train = [train[i] for i in order]
    if len({example.label for example in train}) < 2:
        raise InputError(f"{name} has one label only to learn from", field=f"tasks.{name}")
    return train, test


def folds(
    examples: Sequence[Example], share: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Split by groups: the second part has about ``share`` of them."""
    groups = sorted({example.group for example in examples})
    order = np.random.default_rng(seed).permutation(len(groups))
    held = {groups[i] for i in order[: round(share * len(groups))]}
    if not held or len(held) == len(groups):
        raise InputError(f"{len(groups)} groups cannot be split", field="tasks")
    kept = [example for example in examples if example.group not in held]
    return kept, [example for example in examples if example.group in held]
