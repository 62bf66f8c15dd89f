"""Runs on a Ray of its own, as a program: ``python training_on_ray.py DIRECTORY``.

Two workers; two again, of which one is killed by SIGKILL at step 4 and the other at step 9;
then an elastic run, a run on Ray Data, and one that is resumed. The result is one JSON line.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from training_worlds import CONFIG, text, tiny

from actors.runtime import running_ray
from qcluster.qtransformers import QuantumTrainer
from qcluster.qtransformers.callbacks import Callback
from qcluster.qtransformers.data import TokenWindows
from qcluster.qtransformers.loop import TrainingLoop

RUN = {**CONFIG, "micro_batch_size": None, "eval_every": None, "max_steps": 14}


class KillAt(Callback):
    """SIGKILLs the worker of a rank at a step, once."""

    def __init__(self, directory: Path, kills: dict[int, int]) -> None:
        self.directory, self.kills = directory, kills

    def on_step(self, loop: TrainingLoop) -> None:
        mark = self.directory / f"killed-{loop.step}"
        if self.kills.get(loop.step) == loop.workers.rank and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def two_workers(directory: Path, name: str, kills: dict[int, int]) -> dict[str, Any]:
    trainer = QuantumTrainer(
        tiny(dropout=0.0), TokenWindows(text(), 8), num_workers=2, config=RUN,
        directory=directory / name, callbacks=[KillAt(directory, kills)], loggers=["csv"],
    )  # fmt: skip
    report = trainer.train()
    weights = {k: v.double().sum().item() for k, v in trainer.model.state_dict().items()}
    made = sorted(path.name for path in directory.glob("killed-*"))
    return {**report.to_dict(), "kills": made, "weights": weights}


def elastic(directory: Path) -> dict[str, Any]:
    trainer = QuantumTrainer(
        tiny(dropout=0.0), TokenWindows(text(), 8), num_workers=(1, 2), config=RUN, max_steps=4,
        directory=directory / "elastic",
    )  # fmt: skip
    first = trainer.train().to_dict()
    more = QuantumTrainer(
        tiny(dropout=0.0), TokenWindows(text(), 8), config=RUN, max_steps=6,
        directory=directory / "elastic",
    )  # fmt: skip
    return {"first": first, "more": more.train(resume_from_checkpoint=True).to_dict()}


def ray_data() -> dict[str, Any]:
    """Training on streams: a long one here, of which little is read; a short one on two workers."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False

    def rows(batch: dict[str, Any]) -> dict[str, Any]:
        ids = (batch["id"][:, None] * 7 + np.arange(8)) % 17
        return {"input_ids": ids, "labels": ids}

    options: dict[str, Any] = {"batch_size": 6, "shuffle_window": 300}
    long = ray.data.range(100_000, override_num_blocks=50).map_batches(rows)
    here = QuantumTrainer(tiny(dropout=0.0), long, max_steps=60, **options)
    losses = here.train().losses.tolist()
    stream = here.train_dataset
    short = ray.data.range(64).map_batches(rows)
    alone = QuantumTrainer(tiny(dropout=0.0), short, max_steps=14, **options)
    both = QuantumTrainer(tiny(dropout=0.0), short, short, num_workers=2, max_steps=14, **options)
    return {
        "samples": len(stream), "losses": losses, "pulled": stream.rows_pulled,
        "held": stream.most_held, "alone": alone.train().losses.tolist(),
        "both": both.train().to_dict(),
    }  # fmt: skip


if __name__ == "__main__":
    where = Path(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="qc-") as temp, running_ray("local", where, temp):
        found = {
            "whole": two_workers(where, "whole", {}),
            "killed": two_workers(where, "killed", {4: 1, 9: 0}),
            "elastic": elastic(where),
            "data": ray_data(),
        }
        print(json.dumps(found), flush=True)
