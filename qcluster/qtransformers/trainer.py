"""``QuantumTrainer``: the loop in this process, or on the workers of Ray Train (``on_ray.py``).

Everything that was asked for is checked here, before a worker is started.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from qcluster.errors import InputError
from qcluster.qtransformers import checkpoint as store
from qcluster.qtransformers.callbacks import Callback, Progress
from qcluster.qtransformers.data import Collate, Items, as_source
from qcluster.qtransformers.loggers import make_logger
from qcluster.qtransformers.loop import Loss, TrainingLoop
from qcluster.qtransformers.on_ray import RayOptions
from qcluster.qtransformers.train_config import TrainingConfig
from qcluster.qtransformers.train_report import TrainReport
from qcluster.qtransformers.validation import Metrics
from qcluster.qtransformers.workers import gradient_coder

__all__ = ["QuantumTrainer", "RayOptions"]

log = logging.getLogger(__name__)

Workers = int | tuple[int, int]


class QuantumTrainer:
    """Trains a model, on one process or on many.

    Parameters
    ----------
    model: any module that gives a loss for a batch, e.g. ``ScalableQuantumTransformer``.
    train_dataset, eval_dataset: a torch data set, columns, a list, token windows, Ray Data.
    multi_gpu: train on all GPUs of the cluster; without GPUs on CPU workers, and it says so.
    mixed_precision: True takes bfloat16 where the device has it, else float16.
    num_workers: workers of Ray Train, or ``(least, most)`` for an elastic run; None: one process
        here without Ray, or with ``multi_gpu`` as many as there are GPUs, else CPUs up to two.
    config: a ``TrainingConfig`` or its fields; further fields may be given as keywords.
    directory: of checkpoints and logs; on several machines it is shared storage. None: nothing is
        kept but the weights in the model.
    loggers: of ``csv``, ``tensorboard``, ``mlflow``.
    comm_hook: how gradients travel; see ``workers.resolve_comm_hook``.
    progress: a line on stderr.
    collate, loss, compute_metrics, callbacks: as in ``TrainingLoop``.

    ``notes`` says what was asked for and is done otherwise. Raises InputError naming what is wrong.
    """

    def __init__(
        self,
        model: nn.Module,
        train_dataset: Any,
        eval_dataset: Any = None,
        *,
        multi_gpu: bool = False,
        mixed_precision: bool | str = False,
        num_workers: Workers | None = None,
        config: TrainingConfig | Mapping[str, Any] | None = None,
        directory: str | Path | None = None,
        loggers: Iterable[str] = (),
        collate: Collate | None = None,
        loss: Loss | None = None,
        compute_metrics: Metrics | None = None,
        callbacks: Iterable[Callback] = (),
        comm_hook: Callable[..., Any] | str | None = None,
        progress: bool = False,
        ray: RayOptions | None = None,
        **fields: Any,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(f"wanted a torch module, came {type(model).__name__}", field="model")
        given = dict(config) if config is not None else {}
        if mixed_precision is not False:
            given["mixed_precision"] = "auto" if mixed_precision is True else mixed_precision
        self.config = TrainingConfig.read({**given, **fields})
        self.model = model
        self.train_dataset = as_source(train_dataset, collate, field="train_dataset")
        self.eval_dataset = (
            None if eval_dataset is None else as_source(eval_dataset, collate, field="eval_dataset")
        )
        _masked_labels(model, self.train_dataset, self.eval_dataset)
        self.options = {
            "loss": loss, "compute_metrics": compute_metrics, "comm_hook": comm_hook,
        }  # fmt: skip
        gradient_coder(self.config, comm_hook)
        self.callbacks, self.loggers = list(callbacks), tuple(loggers)
        self.progress, self.ray = progress, ray or RayOptions()
        self.notes: list[str] = []
        self.directory = None if directory is None else Path(directory).resolve()
        self.num_workers, self.gpus = self._workers(multi_gpu, num_workers)
        for name in self.loggers:
            make_logger(name, self.directory or ".")
        if self.loggers and self.directory is None:
            raise InputError("loggers need one to write to", field="directory")
        self.report: TrainReport | None = None

    def train(self, resume_from_checkpoint: bool | str | Path = False) -> TrainReport:
        """Train; the model of this object has the trained weights afterwards.

        ``resume_from_checkpoint`` True goes on from the newest checkpoint of ``directory``. Raises
        SolverFailed where the loss is not a number or Ray's workers fail too often.
        """
        if self.num_workers is None:
            self.report = self._train_here(resume_from_checkpoint)
        else:
            self.report = self._train_on_ray(resume_from_checkpoint)
        return self.report

    def evaluate(self) -> dict[str, float]:
        """Loss and metrics of the present weights, in this process."""
        return self._loop([]).evaluate()

    def _workers(self, multi_gpu: bool, asked: Workers | None) -> tuple[Workers | None, bool]:
        if isinstance(asked, bool) or (asked is not None and min(_pair(asked)) < 1):
            raise InputError(f"wanted 1 or more, came {asked}", field="num_workers")
        if asked is not None and _pair(asked)[0] > _pair(asked)[1]:
            raise InputError(f"the least of {asked} is above the most", field="num_workers")
        gpus = _gpus_in_reach() if (multi_gpu or asked is not None) else 0
        if not multi_gpu:
            return asked, gpus > 0
        if gpus:
            return asked or gpus, True
        count = asked or min(2, os.cpu_count() or 1)
        note = f"multi_gpu was asked for and there is no GPU: training on CPU workers ({count})"
        self.notes.append(note)
        log.warning(note)
        return count, False

    def _loop(self, callbacks: Iterable[Callback]) -> TrainingLoop:
        return TrainingLoop(
            self.model,
            self.train_dataset,
            self.eval_dataset,
            config=self.config,
            callbacks=callbacks,
            directory=None if self.directory is None else self.directory / "checkpoints",
            **cast(Any, self.options),
        )

    def _train_here(self, resume: bool | str | Path) -> TrainReport:
        report = self._loop(self._callbacks()).run(self._resume_from(resume))
        return replace(report, notes=(*self.notes, *report.notes))

    def _resume_from(self, asked: bool | str | Path) -> str | Path | bool:
        if asked is not True:
            return asked
        return False if self.directory is None else _newest(self.directory) or False

    def _callbacks(self) -> list[Callback]:
        place = self.directory or Path()
        found = [*self.callbacks, *(make_logger(name, place) for name in self.loggers)]
        return [*found, Progress()] if self.progress else found

    def _train_on_ray(self, resume: bool | str | Path) -> TrainReport:
        from qcluster.qtransformers import on_ray

        work = {
            "model": self.model, "train": self.train_dataset, "eval": self.eval_dataset,
            "config": self.config.model_dump(), "options": self.options,
            "callbacks": self.callbacks, "loggers": self.loggers,
        }  # fmt: skip
        asked = on_ray.Asked(
            workers=cast(Workers, self.num_workers), gpus=self.gpus, options=self.ray,
            keep=self.config.keep_checkpoints, progress=self.progress,
        )  # fmt: skip
        report, weights = on_ray.train(work, asked, self.directory, self._resume_from(resume))
        store.restore_model(self.model, weights, self.directory or Path())
        checkpoint = None if self.directory is None else report.checkpoint
        return replace(report, notes=(*self.notes, *report.notes), checkpoint=checkpoint)


def _newest(directory: Path) -> str | None:
    """The checkpoint with most steps, of runs in one process and of runs on Ray."""
    found = [*directory.glob("checkpoints/step-*"), *directory.glob("ray-*/checkpoint_*")]
    whole = [path for path in found if (path / "state.json").exists()]
    if not whole:
        return None
    newest = max(whole, key=lambda p: json.loads((p / "state.json").read_text())["step"])
    return str(newest)


def _pair(workers: Workers) -> tuple[int, int]:
    return (workers, workers) if isinstance(workers, int) else workers


def _gpus_in_reach() -> int:
    """GPUs of the Ray cluster this process is connected to, else of this machine."""
    import torch

    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return int(ray.cluster_resources().get("GPU", 0))
    return torch.cuda.device_count()


def _masked_labels(model: nn.Module, *sources: Any) -> None:
    """An encoder that is given token ids alone learns to fill in masked ones."""
    config = getattr(model, "config", None)
    if getattr(config, "kind", None) != "encoder" or getattr(config, "head", None) != "lm":
        return
    for source in sources:
        if isinstance(source, Items) and source.collate.__name__ == "join" and len(source):
            first = source.items[0]
            if isinstance(first, Tensor):
                from qcluster.qtransformers.masking import mask_tokens

                source.collate = mask_tokens(cast(Any, config))
