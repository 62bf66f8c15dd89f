"""What can hook into training: a base class with empty methods, early stopping, a progress line."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qcluster.qtransformers.loop import TrainingLoop
    from qcluster.qtransformers.train_report import TrainReport

__all__ = ["Callback", "EarlyStopping", "Progress"]


class Callback:
    """Override what you need; every method may call ``loop.stop(reason)``.

    With several workers each has its own; what one asks for, all do.
    """

    def on_start(self, loop: TrainingLoop) -> None:
        """Before the first step, after a checkpoint was read."""

    def on_step(self, loop: TrainingLoop) -> None:
        """After each optimiser step; ``loop.step`` counts it."""

    def on_log(self, loop: TrainingLoop, row: Mapping[str, float]) -> None:
        """Every ``log_every`` steps: step, loss, learning rate, gradient norm, samples a second."""

    def on_meeting(self, loop: TrainingLoop) -> None:
        """Before a step, every few seconds and in the same step on all workers.

        It is the place for questions that all of them must answer together.
        """

    def on_evaluate(self, loop: TrainingLoop, metrics: Mapping[str, float]) -> None:
        """After an evaluation."""

    def on_checkpoint(self, loop: TrainingLoop, path: Path | None) -> None:
        """After a checkpoint; ``path`` is None on workers that do not write."""

    def on_end(self, loop: TrainingLoop, report: TrainReport) -> None:
        """After the last step."""


class EarlyStopping(Callback):
    """Stop when ``metric`` has not fallen by ``min_delta`` for ``patience`` evaluations.

    What it knows survives in the checkpoint (``loop.notes``), so a resumed run stops where the
    unbroken one does.
    """

    def __init__(self, patience: int, min_delta: float = 0.0, metric: str = "loss") -> None:
        self.patience, self.min_delta, self.metric = patience, min_delta, metric

    def on_evaluate(self, loop: TrainingLoop, metrics: Mapping[str, float]) -> None:
        memory = loop.memory.setdefault("early_stopping", {"best": None, "bad": 0})
        value = metrics[self.metric]
        best = memory["best"]
        if best is None or value < best - self.min_delta:
            memory.update(best=value, bad=0)
            return
        memory["bad"] += 1
        if memory["bad"] >= self.patience or math.isnan(value):
            loop.stop(f"no better {self.metric} in {memory['bad']} evaluations")


class Progress(Callback):
    """One line on stderr, rewritten on a terminal and printed at each log elsewhere."""

    def on_log(self, loop: TrainingLoop, row: Mapping[str, float]) -> None:
        if loop.workers.rank:
            return
        done = loop.step / max(1, loop.total_steps)
        text = (
            f"step {loop.step}/{loop.total_steps} ({done:.0%})  loss {row['loss']:.4f}  "
            f"{row['samples_per_s']:.1f} samples/s"
        )
        self.show(text)

    def on_end(self, loop: TrainingLoop, report: TrainReport) -> None:  # noqa: ARG002
        if not loop.workers.rank:
            self.end()

    def show(self, text: str) -> None:
        """Put a line out."""
        sys.stderr.write(f"\r{text:<70}" if sys.stderr.isatty() else f"{text}\n")
        sys.stderr.flush()

    def end(self) -> None:
        """Nothing more comes."""
        if sys.stderr.isatty():
            sys.stderr.write("\n")
