"""Runs on a Ray of its own, as a program: ``python training_on_ray.py DIRECTORY``.

Two workers, of which one is killed by SIGKILL at step 4 and the other at step 9; then an elastic
run, a run on Ray Data, and one that is resumed. The result is one JSON line.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

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


def killed(directory: Path) -> dict[str, Any]:
    trainer = QuantumTrainer(
        tiny(dropout=0.0), TokenWindows(text(), 8), num_workers=2, config=RUN,
        directory=directory / "killed", callbacks=[KillAt(directory, {4: 1, 9: 0})],
        loggers=["csv"],
    )  # fmt: skip
    report = trainer.train()
    kills = sorted(path.name for path in directory.glob("killed-*"))
    weights = {k: v.double().sum().item() for k, v in trainer.model.state_dict().items()}
    return {**report.to_dict(), "kills": kills, "weights": weights}


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


def ray_data(directory: Path) -> dict[str, Any]:
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = text(64).reshape(8, 8).numpy()
    data = ray.data.from_numpy(rows).rename_columns({"data": "input_ids"})
    data = data.map_batches(lambda batch: {**batch, "labels": batch["input_ids"]})
    trainer = QuantumTrainer(tiny(), data, max_steps=2, batch_size=4, directory=directory / "data")
    return {"samples": len(trainer.train_dataset), "losses": trainer.train().losses.tolist()}


if __name__ == "__main__":
    where = Path(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="qc-") as temp, running_ray("local", where, temp):
        found = {"killed": killed(where), "elastic": elastic(where), "data": ray_data(where)}
    print(json.dumps(found))
